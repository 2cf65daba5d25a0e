//! Several people of one video in one world.

use pose::{
    KeypointClip,
    trajectory::{self, PathOptions, Sight},
    world::Scale,
};

use crate::{Error, LiftedClip};

/// One person of several.
#[derive(Debug)]
pub struct Together<'a> {
    /// As [`crate::Lifter::lift`] gave it; it is placed anew.
    pub lifted: &'a mut LiftedClip,
    /// The keypoints that were lifted.
    pub keypoints: &'a KeypointClip,
    /// What this person's size is known from.
    pub scale: Scale,
}

/// Places people who were lifted one by one in one world: one camera, one floor, which the feet of all of them say.
///
/// # Errors
/// [`Error::Clip`]: nobody, keypoints of another clip, a camera's place or a size out of range.
pub fn place_together(people: &mut [Together<'_>], options: &PathOptions) -> Result<(), Error> {
    let mut seen = Vec::with_capacity(people.len());
    for person in people.iter() {
        let LiftedClip { pose25, transforms, root_px, times_s, intrinsics, .. } = &*person.lifted;
        let keypoints = &person.keypoints.frames[..];
        seen.push((Sight { pose25, transforms, root_px, keypoints, times_s, intrinsics }, person.scale.clone()));
    }
    let (paths, world_from_camera) = trajectory::place_people(&seen, options).map_err(|error| Error::Clip(error.to_string()))?;
    for (person, path) in people.iter_mut().zip(paths) {
        let lifted = &mut *person.lifted;
        lifted.world_from_camera = world_from_camera;
        lifted.camera_mm = path.camera_mm;
        lifted.contact = path.contact;
        lifted.root_depth_mm = path.root_depth_mm;
        lifted.scale_source = path.scale_source;
        lifted.height_m = path.height_m;
        lifted.bone_lengths_mm = path.bone_lengths_mm;
    }
    Ok(())
}
