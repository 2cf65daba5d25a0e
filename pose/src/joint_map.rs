//! Maps from the skeletons of 2D detectors into the Human3.6M skeleton.
//!
//! A detector sees surface points: it has no pelvis, spine, thorax, nor a "Nose" and "Head" as Human3.6M marks them. Those
//! are linear proxies, the same for every detector (all have nose, ears, shoulders, hips):
//!
//! | joint | proxy | confidence |
//! |---|---|---|
//! | Hip | middle of the hips | smaller of the two |
//! | Thorax | middle of the shoulders | smaller of the two |
//! | Spine | Hip + 0.44 (Thorax - Hip) | smaller of Hip and Thorax |
//! | Head | Thorax + 1.3 (middle of the ears - Thorax) | smaller of the two ears |
//! | Nose | middle of Thorax and Head + 0.55 (nose - middle of the ears) | the nose's |
//!
//! Some mark a few of them, and then the mark goes before the proxy: Halpe-26 the Hip (19), the Thorax (its "neck", 18) and the
//! Head (17); OpenPose's BODY_25 the Hip (8) and the Thorax (1). Feet, fingers and faces are left out; of COCO-WholeBody and of
//! Halpe's 136 points the body is taken. MPI-INF-3DHP marks all 17 joints and is only put in order: its "head" becomes the
//! Nose, its "head top" the Head, its "neck" the Thorax.
//!
//! **When a source is missing** (confidence 0) its proxy falls back to what is there, and each step of falling back halves
//! the confidence, so that a lifter trusts it less:
//! * a middle with one end missing is the other end;
//! * Head without shoulders is the middle of the ears; without ears the nose takes their place;
//! * Nose without the detector's nose is the middle of Thorax and Head; without shoulders or ears it is the detector's nose;
//! * what has no source left is [`Keypoint::MISSING`]. Gaps in time are then [`crate::fill`]'s work.

use crate::{Error, Keypoint, Keypoints17};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// A skeleton that keypoints come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// Human3.6M, 17 joints: taken as they are.
    H36m17,
    /// BlazePose (MediaPipe Pose), 33 landmarks.
    BlazePose33,
    /// COCO, 17 keypoints (YOLO, ViTPose, RTMPose, ...).
    Coco17,
    /// Halpe full body without hands and face, 26 keypoints (AlphaPose, RTMPose).
    Halpe26,
    /// OpenPose's default model, 25 keypoints.
    Body25,
    /// MPI-INF-3DHP, the 17 joints that MotionAGFormer and P-STMO take from it.
    Mpi3dhp17,
    /// COCO-WholeBody, 133 keypoints, of which the first 17 (COCO's) are used.
    CocoWholeBody133,
}

impl Source {
    /// Every source.
    pub const ALL: [Self; 7] =
        [Self::H36m17, Self::BlazePose33, Self::Coco17, Self::Halpe26, Self::Body25, Self::Mpi3dhp17, Self::CocoWholeBody133];

    /// The name that [`FromStr`] reads and files carry.
    pub const fn name(self) -> &'static str {
        match self {
            Self::H36m17 => "h36m17",
            Self::BlazePose33 => "blazepose33",
            Self::Coco17 => "coco17",
            Self::Halpe26 => "halpe26",
            Self::Body25 => "body25",
            Self::Mpi3dhp17 => "mpi3dhp17",
            Self::CocoWholeBody133 => "cocowholebody133",
        }
    }

    /// Number of keypoints for a person.
    pub const fn joints(self) -> usize {
        match self {
            Self::H36m17 | Self::Coco17 | Self::Mpi3dhp17 => 17,
            Self::BlazePose33 => 33,
            Self::Halpe26 => 26,
            Self::Body25 => 25,
            Self::CocoWholeBody133 => 133,
        }
    }

    /// One person's keypoints in this skeleton as Human3.6M joints, see the module's text for the proxies.
    ///
    /// # Errors
    /// [`Error::WrongJointCount`] when `keypoints` has not [`Self::joints`] entries, [`Error::BadKeypoint`] for a value that
    /// is not finite or a confidence outside 0..=1 (the frame is then given as 0: one frame is all this function sees).
    pub fn to_h36m(self, keypoints: &[Keypoint]) -> Result<Keypoints17, Error> {
        let (expected, found) = (self.joints(), keypoints.len());
        if found != expected {
            return Err(Error::WrongJointCount { skeleton: self.name(), expected, found });
        }
        for (joint, keypoint) in keypoints.iter().enumerate() {
            keypoint.check(0, joint)?;
        }
        Ok(match self {
            Self::H36m17 => std::array::from_fn(|j| keypoints[j]),
            Self::BlazePose33 => BLAZEPOSE.to_h36m(keypoints),
            Self::Coco17 | Self::CocoWholeBody133 => COCO.to_h36m(keypoints),
            Self::Halpe26 => HALPE.to_h36m(keypoints),
            Self::Body25 => BODY_25.to_h36m(keypoints),
            Self::Mpi3dhp17 => MPI_INF_3DHP.map(|j| keypoints[j]),
        })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Source {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        let expected = "h36m17, blazepose33, coco17, halpe26, body25, mpi3dhp17, cocowholebody133";
        let known = Self::ALL.into_iter().find(|source| source.name().eq_ignore_ascii_case(name));
        known.ok_or_else(|| Error::UnknownName { what: "skeleton", expected, found: name.to_owned() })
    }
}

/// Where a detector that marks the face and the limbs keeps them; pairs are (left, right).
struct Landmarks {
    nose: usize,
    ears: (usize, usize),
    shoulders: (usize, usize),
    elbows: (usize, usize),
    wrists: (usize, usize),
    hips: (usize, usize),
    knees: (usize, usize),
    ankles: (usize, usize),
    /// What few detectors mark: joints of Human3.6M themselves.
    marked: Marked,
}

/// Joints of Human3.6M that a detector marks, each before its proxy.
struct Marked {
    hip: Option<usize>,
    thorax: Option<usize>,
    head: Option<usize>,
}

const NONE_MARKED: Marked = Marked { hip: None, thorax: None, head: None };

const BLAZEPOSE: Landmarks = Landmarks {
    nose: 0,
    ears: (7, 8),
    shoulders: (11, 12),
    elbows: (13, 14),
    wrists: (15, 16),
    hips: (23, 24),
    knees: (25, 26),
    ankles: (27, 28),
    marked: NONE_MARKED,
};

const COCO: Landmarks = Landmarks {
    nose: 0,
    ears: (3, 4),
    shoulders: (5, 6),
    elbows: (7, 8),
    wrists: (9, 10),
    hips: (11, 12),
    knees: (13, 14),
    ankles: (15, 16),
    marked: NONE_MARKED,
};

/// The first 17 are COCO's.
const HALPE: Landmarks = Landmarks { marked: Marked { hip: Some(19), thorax: Some(18), head: Some(17) }, ..COCO };

const BODY_25: Landmarks = Landmarks {
    nose: 0,
    ears: (18, 17),
    shoulders: (5, 2),
    elbows: (6, 3),
    wrists: (7, 4),
    hips: (12, 9),
    knees: (13, 10),
    ankles: (14, 11),
    marked: Marked { hip: Some(8), thorax: Some(1), head: None },
};

/// For each joint of Human3.6M the one of MPI-INF-3DHP: 0 head top, 1 neck, 2..5 right arm, 5..8 left arm, 8..11 right leg,
/// 11..14 left leg, 14 pelvis, 15 spine, 16 head.
pub const MPI_INF_3DHP: [usize; crate::JOINTS] = [14, 8, 9, 10, 11, 12, 13, 15, 1, 16, 0, 5, 6, 7, 2, 3, 4];

/// How much of a confidence one step of falling back leaves.
const FALLBACK: f32 = 0.5;

impl Landmarks {
    fn to_h36m(&self, k: &[Keypoint]) -> Keypoints17 {
        let pair = |(left, right): (usize, usize)| middle(k[left], k[right]);
        let marked = |joint: Option<usize>| joint.map(|j| k[j]).filter(|k| !k.is_missing());
        let hip = marked(self.marked.hip).unwrap_or_else(|| pair(self.hips));
        let thorax = marked(self.marked.thorax).unwrap_or_else(|| pair(self.shoulders));
        let detected_nose = k[self.nose];
        let ears = match (pair(self.ears), detected_nose) {
            (ears, nose) if ears.is_missing() && !nose.is_missing() => trust_less(nose),
            (ears, _) => ears,
        };
        let spine = if hip.is_missing() || thorax.is_missing() {
            Keypoint::MISSING
        } else {
            combine(&[(0.56, hip), (0.44, thorax)], hip.confidence.min(thorax.confidence))
        };
        let head = marked(self.marked.head).unwrap_or_else(|| head(thorax, ears));
        let nose = nose(thorax, head, pair(self.ears), detected_nose);
        let ((l_hip, r_hip), (l_knee, r_knee), (l_ankle, r_ankle)) = (self.hips, self.knees, self.ankles);
        let ((l_shoulder, r_shoulder), (l_elbow, r_elbow), (l_wrist, r_wrist)) = (self.shoulders, self.elbows, self.wrists);
        [
            hip,
            k[r_hip],
            k[r_knee],
            k[r_ankle],
            k[l_hip],
            k[l_knee],
            k[l_ankle],
            spine,
            thorax,
            nose,
            head,
            k[l_shoulder],
            k[l_elbow],
            k[l_wrist],
            k[r_shoulder],
            k[r_elbow],
            k[r_wrist],
        ]
    }
}

/// The top of the head lies beyond the ears, seen from the thorax.
fn head(thorax: Keypoint, ears: Keypoint) -> Keypoint {
    match (thorax.is_missing(), ears.is_missing()) {
        (_, true) => Keypoint::MISSING,
        (true, false) => trust_less(ears),
        (false, false) => combine(&[(-0.3, thorax), (1.3, ears)], ears.confidence),
    }
}

/// Human3.6M's "Nose" lies half way up the neck and head, shifted to where the face looks.
fn nose(thorax: Keypoint, head: Keypoint, ears: Keypoint, detected: Keypoint) -> Keypoint {
    let neck_known = !thorax.is_missing() && !head.is_missing();
    if detected.is_missing() {
        let confidence = FALLBACK * thorax.confidence.min(head.confidence);
        return if neck_known { combine(&[(0.5, thorax), (0.5, head)], confidence) } else { Keypoint::MISSING };
    }
    if !neck_known || ears.is_missing() {
        return trust_less(detected);
    }
    combine(&[(0.5, thorax), (0.5, head), (0.55, detected), (-0.55, ears)], detected.confidence)
}

/// The middle of two keypoints; with one missing, the other, trusted less.
fn middle(a: Keypoint, b: Keypoint) -> Keypoint {
    match (a.is_missing(), b.is_missing()) {
        (false, false) => combine(&[(0.5, a), (0.5, b)], a.confidence.min(b.confidence)),
        (false, true) => trust_less(a),
        (true, false) => trust_less(b),
        (true, true) => Keypoint::MISSING,
    }
}

fn trust_less(k: Keypoint) -> Keypoint {
    Keypoint { confidence: FALLBACK * k.confidence, ..k }
}

/// Weighted sum of positions.
fn combine(terms: &[(f32, Keypoint)], confidence: f32) -> Keypoint {
    let x_px = terms.iter().map(|(w, k)| w * k.x_px).sum();
    let y_px = terms.iter().map(|(w, k)| w * k.y_px).sum();
    Keypoint { x_px, y_px, confidence }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Distinct positions, distinct confidences.
    fn person(n: usize) -> Vec<Keypoint> {
        (0..n).map(|i| Keypoint::new((i * i) as f32, 10.0 + 3.0 * i as f32, 0.5 + 0.01 * i as f32)).collect()
    }

    fn close(a: Keypoint, b: Keypoint) {
        let d = (a.x_px - b.x_px).abs().max((a.y_px - b.y_px).abs()).max((a.confidence - b.confidence).abs());
        assert!(d < 1e-3, "{a:?} is not {b:?}");
    }

    #[test]
    fn blazepose_proxies_are_those_of_the_reference_pipeline() {
        let k = person(33);
        let q = Source::BlazePose33.to_h36m(&k).unwrap();
        let mid = |a: usize, b: usize| [(k[a].x_px + k[b].x_px) / 2.0, (k[a].y_px + k[b].y_px) / 2.0];
        let (hip, shoulder, ear) = (mid(23, 24), mid(11, 12), mid(7, 8));
        for d in 0..2 {
            let value = |k: Keypoint| if d == 0 { k.x_px } else { k.y_px };
            let head = shoulder[d] + 1.3 * (ear[d] - shoulder[d]);
            let nose = (shoulder[d] + head) / 2.0 + 0.55 * (value(k[0]) - ear[d]);
            let spine = hip[d] + 0.44 * (shoulder[d] - hip[d]);
            for (joint, expected) in [(0, hip[d]), (7, spine), (8, shoulder[d]), (9, nose), (10, head)] {
                assert!((value(q[joint]) - expected).abs() < 1e-3, "joint {joint}");
            }
        }
        let confidences = [(0, 23), (7, 11), (8, 11), (9, 0), (10, 7)];
        for (joint, source) in confidences {
            assert_eq!(q[joint].confidence, k[source].confidence, "joint {joint}");
        }
        let (copies, sources) = ([1, 2, 3, 4, 5, 6, 11, 12, 13, 14, 15, 16], [24, 26, 28, 23, 25, 27, 11, 13, 15, 12, 14, 16]);
        for (joint, source) in copies.into_iter().zip(sources) {
            assert_eq!(q[joint], k[source]);
        }
    }

    #[test]
    fn coco_is_the_same_person_as_blazepose() {
        let coco = person(17);
        let mut blaze = vec![Keypoint::MISSING; 33];
        let in_coco = [0, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];
        let in_blazepose = [0, 7, 8, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28];
        for (c, b) in in_coco.into_iter().zip(in_blazepose) {
            blaze[b] = coco[c];
        }
        assert_eq!(Source::Coco17.to_h36m(&coco), Source::BlazePose33.to_h36m(&blaze));
    }

    #[test]
    fn whole_body_is_its_body() {
        let mut k = person(17);
        k.resize(133, Keypoint::new(1.0, 2.0, 0.9));
        assert_eq!(Source::CocoWholeBody133.to_h36m(&k), Source::Coco17.to_h36m(&k[..17]));
    }

    #[test]
    fn halpe_marks_hip_thorax_and_head() {
        let k = person(26);
        let q = Source::Halpe26.to_h36m(&k).unwrap();
        assert_eq!((q[0], q[8], q[10]), (k[19], k[18], k[17]));
        close(q[7], combine(&[(0.56, k[19]), (0.44, k[18])], k[18].confidence));
        close(q[9], combine(&[(0.5, k[18]), (0.5, k[17]), (0.55, k[0]), (-0.55, middle(k[3], k[4]))], k[0].confidence));
        let limbs = [(1, 12), (2, 14), (3, 16), (4, 11), (5, 13), (6, 15), (11, 5), (12, 7), (13, 9), (14, 6), (15, 8), (16, 10)];
        limbs.into_iter().for_each(|(joint, source)| assert_eq!(q[joint], k[source], "joint {joint}"));

        // without the marks it is COCO
        let mut unmarked = k.clone();
        unmarked[17..20].fill(Keypoint::MISSING);
        assert_eq!(Source::Halpe26.to_h36m(&unmarked), Source::Coco17.to_h36m(&k[..17]));
    }

    #[test]
    fn body_25_is_the_same_person_as_coco() {
        let coco = person(17);
        let in_body = [0, 16, 15, 18, 17, 5, 2, 6, 3, 7, 4, 12, 9, 13, 10, 14, 11]; // nose, eyes, ears, ... left before right
        let mut body = vec![Keypoint::MISSING; 25];
        in_body.into_iter().zip(&coco).for_each(|(b, &k)| body[b] = k);
        assert_eq!(Source::Body25.to_h36m(&body), Source::Coco17.to_h36m(&coco));

        (body[1], body[8]) = (Keypoint::new(1.0, 2.0, 0.9), Keypoint::new(3.0, 4.0, 0.8)); // neck and mid hip
        let q = Source::Body25.to_h36m(&body).unwrap();
        assert_eq!((q[8], q[0]), (body[1], body[8]));
    }

    #[test]
    fn mpi_inf_3dhp_is_put_in_order() {
        let k = person(17);
        let q = Source::Mpi3dhp17.to_h36m(&k).unwrap();
        let names = [
            "Head",
            "Thorax",
            "RShoulder",
            "RElbow",
            "RWrist",
            "LShoulder",
            "LElbow",
            "LWrist",
            "RHip",
            "RKnee",
            "RFoot",
            "LHip",
            "LKnee",
            "LFoot",
            "Hip",
            "Spine",
            "Nose",
        ];
        for (source, name) in names.into_iter().enumerate() {
            let joint = crate::skeleton::NAMES.iter().position(|n| *n == name).unwrap();
            assert_eq!(q[joint], k[source], "{name}");
        }
    }

    #[test]
    fn a_missing_source_falls_back_and_is_trusted_less() {
        let with_missing = |missing: &[usize]| {
            let mut k = person(17);
            missing.iter().for_each(|&i| k[i] = Keypoint::MISSING);
            (Source::Coco17.to_h36m(&k).unwrap(), k)
        };
        let (q, k) = with_missing(&[11]); // left hip
        close(q[0], trust_less(k[12]));
        assert_eq!(q[4], Keypoint::MISSING);
        assert_eq!(q[7].confidence, q[0].confidence.min(q[8].confidence));

        let (q, _) = with_missing(&[11, 12]);
        assert!(q[0].is_missing() && q[7].is_missing() && !q[8].is_missing());

        let (q, k) = with_missing(&[5, 6]); // shoulders
        assert!(q[8].is_missing() && q[7].is_missing());
        close(q[10], trust_less(middle(k[3], k[4])));
        close(q[9], trust_less(k[0]));

        let (q, k) = with_missing(&[3, 4]); // ears
        close(q[10], combine(&[(-0.3, q[8]), (1.3, k[0])], 0.5 * k[0].confidence));
        close(q[9], trust_less(k[0]));

        let (q, _) = with_missing(&[0]); // nose
        close(q[9], combine(&[(0.5, q[8]), (0.5, q[10])], 0.5 * q[8].confidence.min(q[10].confidence)));

        let (q, _) = with_missing(&[0, 3, 4]); // turned away, head out of the picture
        assert!(q[9].is_missing() && q[10].is_missing());
        assert!(Source::Coco17.to_h36m(&[Keypoint::MISSING; 17]).unwrap().iter().all(Keypoint::is_missing));
    }

    #[test]
    fn wrong_input_is_named() {
        let message = Source::Coco17.to_h36m(&person(16)).unwrap_err().to_string();
        assert_eq!(message, "expected 17 keypoints for coco17, found 16: name the skeleton that the file has");
        let mut k = person(33);
        k[5].x_px = f32::NAN;
        assert!(matches!(Source::BlazePose33.to_h36m(&k), Err(Error::BadKeypoint { joint: 5, .. })));
        assert!("openpose".parse::<Source>().unwrap_err().to_string().contains("h36m17, blazepose33, coco17"));
        for source in Source::ALL {
            assert_eq!(source.to_string().parse(), Ok(source));
            assert_eq!(serde_json::to_string(&source).unwrap(), format!("\"{source}\""));
        }
    }
}
