//! Where the camera stands in a world whose floor is z = 0 and whose z is up.
//!
//! The camera stands over the world's origin and looks along +y. What is not known of it ([`CameraPlace`]) is found from people who stand,
//! walk or run in front of it:
//! * **Up.** Who stands has the centre of mass over the feet; where contacts are not known or rare (a run), the usual direction from the ankles to the
//!   thorax of an upright body says nearly the same, and where nobody is upright, that of the trunk. Bodies lean, and most cameras are held level
//!   within some degrees: that is weighed in for the roll. Where feet touch the floor in different places they say it better, so the floor is the
//!   plane through the feet that bear a body, with the body's direction as the prior (Bayesian linear regression). Without knowledge of the
//!   contacts ([`crate::contact`]) the lower ankle of each frame stands for them.
//! * **How high.** The floor lies an ankle's height under the ankles that stand on it.

use crate::{
    Error, Pose3, ROOT,
    camera::Extrinsics,
    contact::{FEET, FootContact},
    skeleton, smooth,
};
use nalgebra::{Matrix3, Rotation3, Vector3};

/// Height of the ankle joint as a share of the stature (Drillis and Contini 1966, in Winter, "Biomechanics and Motor Control").
pub const ANKLE_TO_STATURE: f64 = 0.039;

const R_HIP: usize = 1;
const R_ANKLE: usize = 3;
const L_HIP: usize = 4;
const L_ANKLE: usize = 6;
const THORAX: usize = 8;

/// Farthest from level that a camera may be said to look.
const LARGEST_PITCH_DEG: f32 = 85.0;
/// Heights of a camera that are believed, metres.
const HEIGHT_RANGE_M: std::ops::RangeInclusive<f32> = 0.01..=100.0;

/// What is known of the camera's place; by default nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CameraPlace {
    /// How far the camera looks down from the horizontal, degrees; below 0 it looks up. The camera then does not roll.
    pub pitch_deg: Option<f32>,
    /// Height of the camera over the floor, metres.
    pub height_m: Option<f32>,
}

impl CameraPlace {
    /// Refuses angles and heights of no camera.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn validate(&self) -> Result<(), Error> {
        if let Some(pitch) = self.pitch_deg.filter(|pitch| !(-LARGEST_PITCH_DEG..=LARGEST_PITCH_DEG).contains(pitch)) {
            return Err(Error::out_of_range("pitch of the camera", "-85 to 85 degrees, above 0 where it looks down", pitch));
        }
        if let Some(height) = self.height_m.filter(|height| !HEIGHT_RANGE_M.contains(height)) {
            return Err(Error::out_of_range("height of the camera", "0.01 to 100 metres over the floor", height));
        }
        Ok(())
    }

    /// Up in camera space, where it is known.
    fn up(&self) -> Option<Vector3<f64>> {
        let (sin, cos) = f64::from(self.pitch_deg?).to_radians().sin_cos();
        Some(Vector3::new(0.0, -cos, -sin))
    }
}

/// One person whose feet say where the floor is.
#[derive(Clone, Copy, Debug)]
pub struct Standing<'a> {
    /// Poses in camera space, millimetres.
    pub camera_mm: &'a [Pose3],
    /// Stature, metres: the ankles of tall people stand higher.
    pub height_m: f32,
    /// Which feet (right, left) bear the body in each frame; empty where that is not known.
    pub contact: &'a [FootContact],
}

impl Standing<'_> {
    fn ankle_height_mm(&self) -> f64 {
        ANKLE_TO_STATURE * 1000.0 * f64::from(self.height_m)
    }

    /// The ankles that stand on the floor, in the axes given; where that is not known, the lower one of each frame.
    fn ankles(&self, axes: &Matrix3<f64>) -> (Vec<Vector3<f64>>, bool) {
        let ankle = |pose: &Pose3, j: usize| axes * Vector3::from(pose[j]).cast::<f64>();
        let bears = |(pose, contact): (&Pose3, &FootContact)| {
            let feet: Vec<usize> = (0..2).filter(|&foot| contact[foot]).map(|foot| FEET[foot]).collect();
            feet.into_iter().map(|j| ankle(pose, j)).collect::<Vec<_>>()
        };
        let standing: Vec<_> = self.camera_mm.iter().zip(self.contact).flat_map(bears).collect();
        if !standing.is_empty() {
            return (standing, true);
        }
        let lower = |(r, l): (Vector3<f64>, Vector3<f64>)| if r.z < l.z { r } else { l };
        (self.camera_mm.iter().map(|p| lower((ankle(p, R_ANKLE), ankle(p, L_ANKLE)))).collect(), false)
    }
}

/// [`extrinsics_from_people`] from one person whose contacts with the floor are not known.
pub fn extrinsics_from_person(camera_mm: &[Pose3], height_m: f32) -> Extrinsics {
    extrinsics_from_people(&[Standing { camera_mm, height_m, contact: &[] }], &CameraPlace::default())
}

/// The one camera in front of which all these people stand on one floor; see the module's text.
///
/// Where nobody is upright (no frame with straight legs and back, or "up" more than 45 degrees from the picture's) and no pitch is known, the
/// camera is taken to be level.
pub fn extrinsics_from_people(people: &[Standing<'_>], known: &CameraPlace) -> Extrinsics {
    let up = known.up().unwrap_or_else(|| match body_direction(people) {
        // A first guess is the body's alone: one that was drawn to level wrongly would hide the contacts that say so.
        Some(body) if people.iter().all(|person| person.contact.is_empty()) => floor_normal(people, &body),
        Some(body) => floor_normal(people, &body.held_level()),
        None => -Vector3::y(),
    });
    let axes = axes_around(up);
    let camera_height_mm = known.height_m.map_or_else(|| camera_height_mm(people, &axes), |height_m| 1000.0 * f64::from(height_m));
    Extrinsics::from_parts(axes, Vector3::new(0.0, 0.0, camera_height_mm))
}

/// How far the floor lies under the camera; 0 without anybody.
fn camera_height_mm(people: &[Standing<'_>], axes: &Matrix3<f64>) -> f64 {
    // of all that is under an ankle in contact the middle one is the floor; of lower ankles, which may be in the air, a low one
    let (mut standing_mm, mut lower_mm) = (Vec::new(), Vec::new());
    for person in people {
        let (ankles, in_contact) = person.ankles(axes);
        let floor_mm = ankles.iter().map(|ankle| ankle.z - person.ankle_height_mm());
        if in_contact { &mut standing_mm } else { &mut lower_mm }.extend(floor_mm);
    }
    let floor_mm = if standing_mm.is_empty() { smooth::quantile(&mut lower_mm, 0.1) } else { smooth::median(&mut standing_mm) };
    if floor_mm.is_finite() { -floor_mm } else { 0.0 }
}

/// The rotation `world_from_camera` of a world with this up (in camera space) whose +y is where the camera looks. Its rows
/// are the world's axes in the camera's coordinates.
pub(crate) fn axes_around(up: Vector3<f64>) -> Matrix3<f64> {
    let away = Vector3::z();
    let forward = (away - away.dot(&up) * up).normalize();
    let right = forward.cross(&up);
    Matrix3::from_rows(&[right.transpose(), forward.transpose(), up.transpose()])
}

/// Where up seems to be, before any foot is looked at.
struct Upright {
    /// Unit vector in camera space.
    up: Vector3<f64>,
    /// Spread of its angle sideways and to or from the camera, radians.
    spread: [f64; 2],
}

impl Upright {
    /// People lean sideways, cameras hardly: most are held level within some degrees, and few are not at all. Weighs the one against the
    /// other.
    fn held_level(&self) -> Self {
        const LEVEL: f64 = 0.07; // 4 degrees
        const TILTED: f64 = 0.5; // 30 degrees
        const TILTED_SHARE: f64 = 0.1;
        let roll = self.up.x.atan2(-self.up.y);
        let spread = self.spread[0];
        let likelihood = |camera: f64| {
            let variance = spread.powi(2) + camera.powi(2);
            (-roll.powi(2) / (2.0 * variance)).exp() / variance.sqrt()
        };
        let (level, tilted) = ((1.0 - TILTED_SHARE) * likelihood(LEVEL), TILTED_SHARE * likelihood(TILTED));
        // the prior's precision, averaged over the two kinds of camera
        let precision = (level * LEVEL.powi(-2) + tilted * TILTED.powi(-2)) / (level + tilted);
        let total = precision + spread.powi(-2);
        let turned = Rotation3::from_axis_angle(&Vector3::z_axis(), roll * spread.powi(-2) / total - roll) * self.up;
        Self { up: turned, spread: [total.sqrt().recip(), self.spread[1]] }
    }
}

/// The floor's normal in camera space: `height = a x + b y + c` through the ankles that stand on it, in the axes around
/// the body's direction, with the prior that a and b are 0.
fn floor_normal(people: &[Standing<'_>], body: &Upright) -> Vector3<f64> {
    const ROUNDS: i32 = 10;
    const FIRST_NEAR_MM: f64 = 600.0;
    const CONTACT_MM: f64 = 60.0; // spread of the ankle's height while its foot bears the body, the lifter's errors included
    const FRAMES_A_STEP: f64 = 25.0; // frames of one step are one observation, not many
    const LARGEST_TAN: f64 = 0.36; // 20 degrees

    let axes = axes_around(body.up);
    let over_floor = |person: &Standing<'_>| {
        let (ankles, _) = person.ankles(&axes);
        ankles.into_iter().map(|ankle| ankle - person.ankle_height_mm() * Vector3::z()).collect::<Vec<_>>()
    };
    let points: Vec<Vector3<f64>> = people.iter().flat_map(over_floor).collect();
    let centre = points.iter().sum::<Vector3<f64>>() / points.len() as f64;

    let mut plane = Vector3::new(0.0, 0.0, smooth::quantile(&mut points.iter().map(|p| p.z).collect::<Vec<_>>(), 0.3));
    for round in 0..ROUNDS {
        // wide at first: someone who stands half a metre too high because the first plane is tilted must be able to say so
        let near_mm = CONTACT_MM.max(FIRST_NEAR_MM * 0.6_f64.powi(round));
        let prior = Vector3::new(body.spread[0].powi(-2), body.spread[1].powi(-2), 0.0);
        let (mut precision, mut moment) = (Matrix3::from_diagonal(&prior), Vector3::zeros());
        for p in &points {
            let row = Vector3::new(p.x - centre.x, p.y - centre.y, 1.0);
            let above = (p.z - row.dot(&plane)) / near_mm;
            // a foot well above the floor is in the air and says nothing of it
            let weight = if above > 1.0 { above.powi(-4) } else { 1.0 } / FRAMES_A_STEP / CONTACT_MM.powi(2);
            precision += weight * row * row.transpose();
            moment += weight * p.z * row;
        }
        match precision.try_inverse() {
            Some(covariance) => plane = covariance * moment,
            None => return body.up,
        }
    }
    if plane.x.hypot(plane.y) > LARGEST_TAN {
        return body.up;
    }
    // the normal of z = a x + b y + c, back in camera space
    axes.transpose() * Vector3::new(-plane.x, -plane.y, 1.0).normalize()
}

/// The usual direction of upright bodies in camera space, or, where nobody stands on straight legs, of trunks; `None` when there is none
/// that points up in the picture.
fn body_direction(people: &[Standing<'_>]) -> Option<Upright> {
    const OVER_FEET: f64 = 0.09; // 5 degrees
    const MOSTLY: f64 = 0.5; // who runs or jumps is thrown from foot to foot
    const BODY: f64 = 0.15; // 9 degrees: runners lean
    const TRUNK: f64 = 0.26; // 15 degrees: who sits or crouches leans more
    let poses = || people.iter().flat_map(|person| person.camera_mm);
    let frames = poses().count();
    let pairs = people.iter().flat_map(|person| person.camera_mm.iter().zip(person.contact));
    let over: Vec<_> = pairs.filter_map(|(pose, contact)| over_feet(pose, *contact)).collect();
    if over.len() as f64 > MOSTLY * frames as f64
        && let Some(up) = usual_direction(over)
    {
        return Some(Upright { up, spread: [OVER_FEET; 2] });
    }
    usual_direction(poses().filter_map(upright_body).collect())
        .map(|up| Upright { up, spread: [BODY; 2] })
        .or_else(|| usual_direction(poses().filter_map(trunk).collect()).map(|up| Upright { up, spread: [TRUNK; 2] }))
}

/// From the ankles to the thorax of a body on straight legs.
fn upright_body(pose: &Pose3) -> Option<Vector3<f64>> {
    let (hip, thorax) = (point(pose[ROOT]), point(pose[THORAX]));
    let ankles = (point(pose[R_ANKLE]) + point(pose[L_ANKLE])) / 2.0;
    let lengths = skeleton::bone_lengths(pose).map(f64::from);
    let leg = (lengths[1] + lengths[2] + lengths[4] + lengths[5]) / 2.0;
    let hips = (point(pose[R_HIP]) + point(pose[L_HIP])) / 2.0;
    let straight_legs = (hips - ankles).norm() > 0.85 * leg;
    let straight_back = (thorax - hip).normalize().dot(&(hips - ankles).normalize()) > 0.85;
    (straight_legs && straight_back).then(|| (thorax - ankles).normalize())
}

/// From the feet that stand to the centre of mass, which is over them on average. Segments' shares and centres: Winter, "Biomechanics and Motor
/// Control of Human Movement", table 4.1 (after Dempster).
fn over_feet(pose: &Pose3, contact: FootContact) -> Option<Vector3<f64>> {
    /// (from, to, share of the mass, place of its centre between them)
    const SEGMENTS: [(usize, usize, f64, f64); 12] = [
        (0, 8, 0.497, 0.5),
        (9, 10, 0.081, 0.5),
        (11, 12, 0.028, 0.436),
        (14, 15, 0.028, 0.436),
        (12, 13, 0.022, 0.682),
        (15, 16, 0.022, 0.682),
        (1, 2, 0.1, 0.433),
        (4, 5, 0.1, 0.433),
        (2, 3, 0.0465, 0.433),
        (5, 6, 0.0465, 0.433),
        (2, 3, 0.0145, 1.0),
        (5, 6, 0.0145, 1.0),
    ];
    const LEAST_HEIGHT: f64 = 0.42; // of the body's chain of bones: lower, something else than the feet bears it
    let feet: Vec<Vector3<f64>> = (0..2).filter(|&foot| contact[foot]).map(|foot| point(pose[FEET[foot]])).collect();
    if feet.is_empty() {
        return None;
    }
    let support = feet.iter().sum::<Vector3<f64>>() / feet.len() as f64;
    let centre: Vector3<f64> = SEGMENTS.iter().map(|&(a, b, share, at)| share * (point(pose[a]) * (1.0 - at) + point(pose[b]) * at)).sum();
    let over = centre - support;
    let chain = crate::world::body_chain(&skeleton::bone_lengths(pose).map(f64::from));
    (over.norm() > LEAST_HEIGHT * chain).then(|| over.normalize())
}

fn trunk(pose: &Pose3) -> Option<Vector3<f64>> {
    (point(pose[THORAX]) - point(pose[ROOT])).try_normalize(1e-6)
}

fn point(p: [f32; 3]) -> Vector3<f64> {
    Vector3::from(p).cast()
}

/// The median direction, if it points up in the picture within 45 degrees.
fn usual_direction(directions: Vec<Vector3<f64>>) -> Option<Vector3<f64>> {
    let median = |k: usize| smooth::median(&mut directions.iter().map(|d| d[k]).collect::<Vec<_>>());
    let up = Vector3::new(median(0), median(1), median(2)).try_normalize(1e-6)?;
    let cos_45 = std::f64::consts::FRAC_1_SQRT_2;
    (-up.y > cos_45).then_some(up)
}
