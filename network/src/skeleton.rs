//! The graphs of the Human3.6M skeleton as the references define them: part of the architecture, not of a pose.

/// Joints of the skeleton.
pub const JOINTS: usize = 17;

/// MotionAGFormer's neighbours: directed, neither symmetric nor with self loops, exactly as its code lists them.
const MOTIONAGFORMER_NEIGHBOURS: [(usize, &[usize]); 17] = [
    (0, &[1, 7]),
    (1, &[2, 0]),
    (2, &[3, 1]),
    (3, &[2]),
    (4, &[5, 0]),
    (5, &[6, 4]),
    (6, &[5]),
    (7, &[0, 8]),
    (8, &[7, 9]),
    (9, &[8, 10]),
    (10, &[9]),
    (11, &[12, 8]),
    (12, &[13, 11]),
    (13, &[12]),
    (14, &[15, 8]),
    (15, &[16, 14]),
    (16, &[15]),
];

/// The 16 bones of MambaGCN's symmetric graph.
const BONES: [(usize, usize); 16] = [
    (0, 1),
    (1, 2),
    (2, 3),
    (0, 4),
    (4, 5),
    (5, 6),
    (0, 7),
    (7, 8),
    (8, 9),
    (9, 10),
    (8, 11),
    (11, 12),
    (12, 13),
    (8, 14),
    (14, 15),
    (15, 16),
];

/// `D^-1/2 A D^-1/2`, D the row sums; (J, J) row-major.
fn normalise(adjacency: &[[f64; JOINTS]; JOINTS]) -> Vec<f32> {
    let scale: Vec<f64> = adjacency.iter().map(|row| row.iter().sum::<f64>().sqrt().recip()).collect();
    (0..JOINTS * JOINTS).map(|k| (scale[k / JOINTS] * adjacency[k / JOINTS][k % JOINTS] * scale[k % JOINTS]) as f32).collect()
}

/// Normalised adjacency of MotionAGFormer's spatial graph, (J, J) row-major.
#[must_use]
pub fn motionagformer_adjacency() -> Vec<f32> {
    let mut adjacency = [[0.0; JOINTS]; JOINTS];
    for (node, neighbours) in MOTIONAGFORMER_NEIGHBOURS {
        for &neighbour in neighbours {
            adjacency[node][neighbour] = 1.0;
        }
    }
    normalise(&adjacency)
}

/// Normalised adjacency of MambaGCN's graph: symmetric, with self loops; (J, J) row-major.
#[must_use]
pub fn symmetric_adjacency() -> Vec<f32> {
    let mut adjacency = [[0.0; JOINTS]; JOINTS];
    for (a, b) in BONES {
        adjacency[a][b] = 1.0;
        adjacency[b][a] = 1.0;
    }
    for (i, row) in adjacency.iter_mut().enumerate() {
        row[i] = 1.0;
    }
    normalise(&adjacency)
}
