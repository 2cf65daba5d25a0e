//! Who is who from frame to frame.
//!
//! Detections of a frame are assigned to the people seen before ([`Tracker`]) in the manner of ByteTrack: certain detections
//! first, uncertain ones to whoever is left. What counts is where a Kalman filter expects the person, how alike the keypoints
//! are, and the colours of the clothes. Where an exchange of two people would fit about as well, nobody is guessed: the tracks
//! end, and new ones begin.
//!
//! A *track* is somebody seen without doubt; a *person* is one or more tracks. A new track is given to a person who was seen
//! before when clothes and proportions say so clearly, and is somebody new otherwise. So no track ever mixes two people, and
//! who comes back is known again if they can be told apart.

mod appearance;
mod assign;
mod kalman;
mod similarity;

use std::collections::BTreeMap;

use opencv::core::Mat;
use pose::joint_map::Source;
use pose::{Keypoint, Keypoints17};

use crate::detect::{BoxPx, Detected, Expected};
pub use appearance::Appearance;
use assign::best_pairs;
use kalman::Motion;
pub use similarity::{Proportions, centre, iou, oks};

/// Detections from this score on are assigned first, and only they begin tracks.
const CERTAIN: f32 = 0.5;
/// Detections below this score are nobody.
const UNCERTAIN: f32 = 0.1;
/// Someone out of sight for longer is no longer expected anywhere.
pub const LOST_S: f64 = crate::observe::LONGEST_GAP_S;
/// How far people move at once, in their own sizes (about 1.7 m): so much between two frames ...
const JUMP: f32 = 0.3;
/// ... and so much more in a second. A faster one is somebody else.
const FASTEST_PER_S: f32 = 3.7;
/// How much larger or smaller someone becomes between two looks ...
const LARGEST_GROWTH: f32 = 2.0;
/// ... and the share of their size that is left of them when they roll up.
const SMALLEST: f32 = 0.35;
/// A person's size is the largest of late: who bends down does not shrink. It is forgotten in about this time.
const SIZE_MEMORY_S: f64 = 3.0;
/// A pair that fits less is none ...
const MIN_FIT: f32 = 0.25;
/// ... nor is one of somebody seen a moment ago that fits less than this ...
const MIN_FIT_AT_ONCE: f32 = 0.5;
/// ... or than this where somebody else is expected too.
const MIN_FIT_CROWDED: f32 = 0.7;
/// Where tracks ended in doubt, people are still expected for so long.
const GHOST_S: f64 = 0.7;
/// Keypoints of the last sight say something for about this long.
const POSE_MEMORY_S: f64 = 0.15;
/// Someone out of sight for this long fits half as well as someone who was just seen.
const FRESH_S: f64 = 0.6;
/// An exchange that fits worse by less than this cannot be excluded.
const DOUBT: f32 = 0.07;
/// A pose this much like the one that is expected of somebody may be theirs, whoever's it is.
const ALIKE: f32 = 0.45;
/// Two detections more alike than this are one person.
const SAME_POSE: f32 = 0.75;
/// Share of the fit that the clothes have.
const APPEARANCE_SHARE: f32 = 0.3;
/// How alike clothes of which nothing is known are taken to be.
const USUAL_APPEARANCE: f32 = 0.75;
/// Who wears clothes less alike than this is somebody else, whatever else fits.
const OTHER_CLOTHES: f32 = 0.45;
/// Boxes that overlap more than this hide each other's clothes.
const HIDDEN: f32 = 0.08;
/// Nobody new begins where somebody known covers more than this of their box: mostly it is the same body seen twice.
pub(crate) const MOSTLY_HIDDEN: f32 = 0.6;
/// A track is somebody after so many sights.
const CONFIRMED: u32 = 3;
/// A new track's clothes are looked at for so long before it is said to be nobody who was seen before ...
const RECOGNISE_S: f64 = 0.5;
/// ... or for so long if they are hidden.
const RECOGNISE_HIDDEN_S: f64 = 2.0;
/// Views of the clothes that it takes to recognise someone.
const RECOGNISE_VIEWS: f32 = 3.0;
/// Clothes at least so alike are the same on someone who was lost this moment and is sought right here ...
const SAME_CLOTHES_NEAR: f32 = 0.6;
/// ... and on someone who has been gone for long.
const SAME_CLOTHES: f32 = 0.9;
/// Nobody else who is sought may wear clothes that are alike within this.
const CLEARLY: f32 = 0.06;
/// A view of the clothes is compared with the last one if that is no older than this.
const SAME_LIGHT_S: f64 = 0.2;
/// Proportions that differ by more are somebody else's.
const OTHER_PROPORTIONS: f32 = 0.12;
/// So many people are remembered; the ones seen longest ago are forgotten.
const MOST_REMEMBERED: usize = 256;

/// Somebody in a frame.
#[derive(Debug, Clone, PartialEq)]
pub struct Tracked {
    /// The uninterrupted sight of one person that this belongs to; never used for anybody else.
    pub track: u64,
    /// Who it is, counted from 1; `None` until that is known. [`Tracker::person_of`] tells it later for the whole track.
    pub person: Option<u64>,
    /// Pixels.
    pub keypoints: Keypoints17,
    /// Around the body.
    pub box_px: BoxPx,
    /// How sure the detector is.
    pub score: f32,
}

/// Follows everyone through a stream of detections.
#[derive(Debug)]
pub struct Tracker {
    most: usize,
    tracks: Vec<Track>,
    /// Tracks that ended in doubt: the people are still there.
    ghosts: Vec<(f64, Motion)>,
    people: BTreeMap<u64, Remembered>,
    person_of: BTreeMap<u64, u64>,
    next_track: u64,
    next_person: u64,
    sees_clothes: bool,
}

/// Somebody in sight, or lost a short while ago.
#[derive(Debug)]
struct Track {
    number: u64,
    person: Option<u64>,
    first_s: f64,
    last_s: f64,
    sights: u32,
    motion: Motion,
    last: Sight,
    size_px: f32,
    appearance: Appearance,
    /// When the clothes were first seen.
    first_view_s: Option<f64>,
    /// The last view of the clothes that nobody hid, and when it was.
    last_view: Option<(f64, Appearance)>,
    proportions: Proportions,
}

/// A person that tracks belong to.
#[derive(Debug)]
struct Remembered {
    appearance: Appearance,
    proportions: Proportions,
    last_s: f64,
    last_box: BoxPx,
    size_px: f32,
}

/// A detection with what is measured on it.
#[derive(Debug, Clone)]
struct Sight {
    keypoints: Keypoints17,
    box_px: BoxPx,
    score: f32,
    appearance: Appearance,
    /// Nobody else stands before or behind: the clothes are this person's.
    clear: bool,
    /// Somebody else is expected here too.
    crowded: bool,
}

impl Tracker {
    /// For at most so many people at a time.
    pub fn new(most: usize) -> Self {
        Self {
            most: most.max(1),
            tracks: Vec::new(),
            ghosts: Vec::new(),
            people: BTreeMap::new(),
            person_of: BTreeMap::new(),
            next_track: 1,
            next_person: 1,
            sees_clothes: false,
        }
    }

    /// Where people known so far are expected at a time, those in sight first.
    pub fn expected(&self, time_s: f64) -> Vec<Expected> {
        let mut tracks: Vec<&Track> = self.tracks.iter().filter(|track| time_s - track.last_s <= LOST_S).collect();
        tracks.sort_by(|a, b| b.last_s.total_cmp(&a.last_s).then(b.size_px.total_cmp(&a.size_px)));
        tracks.into_iter().map(|track| Expected { id: track.number, box_px: track.motion.at(time_s) }).collect()
    }

    /// Takes in the detections of the next frame; times rise. `frame` (BGR) is where clothes are looked at, if there is one.
    /// Gives the people of this frame, including tracks that are too new to be somebody.
    pub fn update(&mut self, frame: Option<&Mat>, time_s: f64, detections: &[Detected], joints: Source) -> Vec<Tracked> {
        self.retire(time_s);
        self.sees_clothes = frame.is_some();
        let mut sights = sights(frame, detections, joints);
        self.ghosts.retain(|&(ended_s, _)| time_s - ended_s <= GHOST_S);
        // Somebody whom the detector misses hides others all the same.
        let somebody = self.tracks.iter().filter(|track| track.is_somebody()).map(|track| &track.motion);
        let ghosts = self.ghosts.iter().map(|(_, motion)| motion);
        let expected: Vec<BoxPx> = somebody.chain(ghosts).map(|motion| motion.at(time_s)).collect();
        for sight in &mut sights {
            // One of those expected is the person themselves.
            sight.crowded = expected.iter().filter(|expected| hidden_share(&sight.box_px, expected) > HIDDEN).count() > 1;
            sight.clear &= !sight.crowded;
        }
        let mut assigned: Vec<Option<usize>> = vec![None; sights.len()];

        let certain: Vec<usize> = (0..sights.len()).filter(|&s| sights[s].score >= CERTAIN).collect();
        let all_tracks: Vec<usize> = (0..self.tracks.len()).collect();
        let (pairs, doubtful) = self.pair(&all_tracks, &certain, &sights, time_s);
        for &(t, c) in pairs.iter().filter(|(t, _)| !doubtful[*t]) {
            assigned[certain[c]] = Some(t);
        }
        // Uncertain detections are mostly people half hidden: they keep a track alive, and begin none.
        let left: Vec<usize> = all_tracks.into_iter().filter(|&t| !pairs.iter().any(|&(paired, _)| paired == t)).collect();
        let uncertain: Vec<usize> = (0..sights.len()).filter(|&s| (UNCERTAIN..CERTAIN).contains(&sights[s].score)).collect();
        let (uncertain_pairs, uncertain_doubtful) = self.pair(&left, &uncertain, &sights, time_s);
        for &(l, u) in uncertain_pairs.iter().filter(|(l, _)| !uncertain_doubtful[*l] && !doubtful[left[*l]]) {
            assigned[uncertain[u]] = Some(left[l]);
        }

        for (s, sight) in sights.iter().enumerate() {
            if let Some(t) = assigned[s] {
                self.tracks[t].see(time_s, sight);
            }
        }
        let mut numbers: Vec<Option<u64>> = assigned.iter().map(|t| t.map(|t| self.tracks[t].number)).collect();
        let in_doubt: Vec<&Track> =
            self.tracks.iter().zip(&doubtful).filter(|(_, is_doubtful)| **is_doubtful).map(|(track, _)| track).collect();
        self.ghosts.extend(in_doubt.iter().filter(|track| track.is_somebody()).map(|track| (time_s, track.motion)));
        let ended: Vec<u64> = in_doubt.iter().map(|track| track.number).collect();
        self.end(|track| ended.contains(&track.number));

        for &s in &certain {
            let in_sight = self.tracks.iter().filter(|track| track.last_s >= time_s).count();
            let is_hidden = (0..sights.len())
                .any(|other| numbers[other].is_some() && hidden_share(&sights[s].box_px, &sights[other].box_px) > MOSTLY_HIDDEN);
            // Where people who are in doubt are still together, a new track would be in doubt too.
            let ghosts = self.ghosts.iter().map(|(_, motion)| motion.at(time_s));
            let is_doubtful = ghosts.filter(|ghost| hidden_share(&sights[s].box_px, ghost) > HIDDEN).count() > 1;
            if numbers[s].is_none() && in_sight < self.most && !is_hidden && !is_doubtful {
                numbers[s] = Some(self.begin(time_s, &sights[s]));
            }
        }
        self.name(time_s);
        let tracked = |(number, sight): (Option<u64>, &Sight)| {
            let track = number?;
            let &Sight { keypoints, box_px, score, .. } = sight;
            Some(Tracked { track, person: self.person_of(track), keypoints, box_px, score })
        };
        numbers.into_iter().zip(&sights).filter_map(tracked).collect()
    }

    /// The best pairs of these tracks and sights (as indices into `tracks` and `chosen`), and which of the tracks are in doubt.
    fn pair(&self, tracks: &[usize], chosen: &[usize], sights: &[Sight], time_s: f64) -> (Vec<(usize, usize)>, Vec<bool>) {
        let claims_of = |&t: &usize| chosen.iter().map(|&s| self.tracks[t].claim(&sights[s], time_s)).collect();
        let claims: Vec<Vec<Option<Claim>>> = tracks.iter().map(claims_of).collect();
        let fits: Vec<Vec<Option<f32>>> = claims.iter().map(|row| row.iter().map(|claim| claim.map(|claim| claim.fit)).collect()).collect();
        let pairs = best_pairs(&fits);
        let doubtful = doubtful_rows(&claims, &pairs);
        (pairs, doubtful)
    }

    /// Who a track is; `None` for one that was too short to be anybody.
    pub fn person_of(&self, track: u64) -> Option<u64> {
        self.person_of.get(&track).copied()
    }

    fn begin(&mut self, time_s: f64, sight: &Sight) -> u64 {
        let number = self.next_track;
        self.next_track += 1;
        let mut track = Track {
            number,
            person: None,
            first_s: time_s,
            last_s: time_s,
            sights: 0,
            motion: Motion::new(time_s, sight.box_px),
            last: sight.clone(),
            size_px: size_px(&sight.box_px),
            appearance: Appearance::default(),
            first_view_s: None,
            last_view: None,
            proportions: Proportions::default(),
        };
        track.learn(time_s, sight);
        self.tracks.push(track);
        number
    }

    /// Ends tracks of people who are gone.
    fn retire(&mut self, time_s: f64) {
        self.end(|track| time_s - track.last_s > LOST_S || (track.sights < CONFIRMED && time_s - track.last_s > LOST_S / 4.0));
    }

    fn end(&mut self, which: impl Fn(&Track) -> bool) {
        let (ended, kept) = std::mem::take(&mut self.tracks).into_iter().partition(|track| which(track));
        self.tracks = kept;
        let ended: Vec<Track> = ended;
        for track in ended {
            let Some(person) = track.person.and_then(|person| self.people.get_mut(&person)) else { continue };
            person.appearance.add(&track.appearance);
            person.proportions.extend(&track.proportions);
            (person.last_s, person.last_box, person.size_px) = (track.last_s, track.last.box_px, track.size_px);
        }
        while self.people.len() > MOST_REMEMBERED {
            let oldest = self.people.iter().filter(|(id, _)| !self.is_active(**id)).min_by(|a, b| a.1.last_s.total_cmp(&b.1.last_s));
            let Some(id) = oldest.map(|(id, _)| *id) else { break };
            self.people.remove(&id);
        }
    }

    fn is_active(&self, person: u64) -> bool {
        self.tracks.iter().any(|track| track.person == Some(person))
    }

    fn is_in_sight(&self, person: u64, since_s: f64) -> bool {
        self.tracks.iter().any(|track| track.person == Some(person) && track.last_s >= since_s)
    }

    /// Says who the unnamed tracks are, where that can be said.
    fn name(&mut self, time_s: f64) {
        let mut named = Vec::new();
        for t in 0..self.tracks.len() {
            let track = &self.tracks[t];
            // Whoever is there when everything begins is somebody at once.
            let is_first = self.people.is_empty();
            if track.person.is_some() || track.last_s < time_s || (track.sights < CONFIRMED && !is_first) {
                continue;
            }
            let is_anybody_gone = self.people.keys().any(|&id| !self.is_in_sight(id, track.first_s));
            let known = self.recognise(track);
            let seen_s = track.first_view_s.filter(|_| track.appearance.views() >= RECOGNISE_VIEWS).map_or(0.0, |first_s| time_s - first_s);
            let looked_enough = !self.sees_clothes || seen_s >= RECOGNISE_S || time_s - track.first_s >= RECOGNISE_HIDDEN_S;
            if known.is_none() && is_anybody_gone && !looked_enough {
                continue;
            }
            let person = known.unwrap_or(self.next_person);
            self.next_person = self.next_person.max(person + 1);
            let track = &mut self.tracks[t];
            track.person = Some(person);
            self.person_of.insert(track.number, person);
            named.push((track.number, person));
            self.people.entry(person).or_insert_with(|| Remembered {
                appearance: Appearance::default(),
                proportions: Proportions::default(),
                last_s: track.last_s,
                last_box: track.last.box_px,
                size_px: track.size_px,
            });
        }
        // Who was found again is no longer sought.
        self.end(|track| named.iter().any(|&(number, person)| track.person == Some(person) && track.number != number));
    }

    /// The person, seen before and not in sight since this track began, that it clearly is.
    fn recognise(&self, track: &Track) -> Option<u64> {
        let gone = self.people.iter().filter(|(id, _)| !self.is_in_sight(**id, track.first_s));
        let mut likely: Vec<(u64, f32, f32)> = gone
            .filter_map(|(&id, person)| {
                let current = self.tracks.iter().find(|track| track.person == Some(id));
                let (alike, needed) = person.likeness(current, track)?;
                Some((id, alike, needed))
            })
            .collect();
        likely.sort_by(|a, b| b.1.total_cmp(&a.1));
        let &(id, alike, needed) = likely.first()?;
        let is_clear = likely.get(1).is_none_or(|&(_, other, _)| alike - other >= CLEARLY);
        (alike >= needed && is_clear).then_some(id)
    }
}

impl Remembered {
    /// How alike the clothes of this person, who may still be sought by a `current` track, are to those on a new track, and how alike they
    /// need to be to be the same. `None` where they cannot be the same person.
    fn likeness(&self, current: Option<&Track>, new: &Track) -> Option<(f32, f32)> {
        let (mut appearance, mut proportions) = (self.appearance, self.proportions);
        let (mut last_s, mut last_box, mut size_px) = (self.last_s, self.last_box, self.size_px);
        let mut expected = last_box;
        if let Some(current) = current {
            appearance.add(&current.appearance);
            proportions.extend(&current.proportions);
            (last_s, last_box, size_px) = (current.last_s, current.last.box_px, current.size_px);
            expected = current.motion.at(new.last_s);
        }
        let elapsed_s = new.first_s - last_s;
        if elapsed_s <= 0.0 || proportions.difference(&new.proportions).is_some_and(|difference| difference > OTHER_PROPORTIONS) {
            return None;
        }
        // After a long absence people may come back anywhere.
        let surprise = if elapsed_s > LOST_S {
            1.0
        } else if is_near(&last_box, &new.last.box_px, size_px, new.last_s - last_s) {
            let distance = distance(&expected, &new.last.box_px) / size_px;
            distance.max((elapsed_s / LOST_S) as f32).min(1.0)
        } else {
            return None;
        };
        let needed = SAME_CLOTHES_NEAR + surprise * (SAME_CLOTHES - SAME_CLOTHES_NEAR);
        let alike = appearance.similarity(&new.appearance).filter(|_| new.appearance.views() >= RECOGNISE_VIEWS)?;
        Some((alike, needed))
    }
}

impl Track {
    fn is_somebody(&self) -> bool {
        self.person.is_some() || self.sights >= CONFIRMED
    }

    /// How well a sight fits this track; `None` where it cannot be the same person.
    fn claim(&self, sight: &Sight, time_s: f64) -> Option<Claim> {
        let elapsed_s = time_s - self.last_s;
        if !is_near(&self.last.box_px, &sight.box_px, self.size_px, elapsed_s) {
            return None;
        }
        let growth = size_px(&sight.box_px) / size_px(&self.last.box_px);
        if !(LARGEST_GROWTH.recip()..=LARGEST_GROWTH).contains(&growth) || size_px(&sight.box_px) < SMALLEST * self.size_px {
            return None;
        }
        // Who stands behind somebody seems to wear their clothes.
        let clothes = if sight.clear { self.clothes(sight, time_s) } else { None };
        if self.appearance.views() >= RECOGNISE_VIEWS && clothes.is_some_and(|clothes| clothes < OTHER_CLOTHES) {
            return None;
        }
        let expected = self.motion.at(time_s);
        let place = 1.0 - distance(&expected, &sight.box_px) / (self.size_px * reach(elapsed_s));
        let moved = [centre(&expected), centre(&self.last.box_px)];
        let shift = [moved[0][0] - moved[1][0], moved[0][1] - moved[1][1]];
        let led_on = self.last.keypoints.map(|k| Keypoint { x_px: k.x_px + shift[0], y_px: k.y_px + shift[1], ..k });
        let overlap = iou(&expected, &sight.box_px);
        let oks = oks(&led_on, &sight.keypoints, self.size_px);
        let shape = oks.map_or(overlap, |oks| (2.0 * oks + overlap) / 3.0);
        // The longer ago, the less the last pose says.
        let weight = (-elapsed_s / POSE_MEMORY_S).exp() as f32;
        let motion = (place.max(0.0) + 2.0 * weight * shape) / (1.0 + 2.0 * weight);
        let freshness = (0.5f64.powf(elapsed_s / FRESH_S)) as f32;
        let fit = freshness * motion * (1.0 - APPEARANCE_SHARE) + APPEARANCE_SHARE * clothes.unwrap_or(USUAL_APPEARANCE);
        let needed = match elapsed_s <= POSE_MEMORY_S {
            true if sight.crowded => MIN_FIT_CROWDED,
            true => MIN_FIT_AT_ONCE,
            false => MIN_FIT,
        };
        (fit >= needed).then_some(Claim { fit, oks: oks.unwrap_or(0.0), of_somebody: self.is_somebody() })
    }

    /// How alike the clothes are, those of all views or the last ones: who walks into the sun changes from view to view a little.
    fn clothes(&self, sight: &Sight, time_s: f64) -> Option<f32> {
        let all = self.appearance.similarity(&sight.appearance);
        let last = self.last_view.filter(|(seen_s, _)| time_s - seen_s <= SAME_LIGHT_S);
        let last = last.and_then(|(_, last)| last.similarity(&sight.appearance));
        all.into_iter().chain(last).reduce(f32::max)
    }

    fn see(&mut self, time_s: f64, sight: &Sight) {
        let forgotten = (-(time_s - self.last_s) / SIZE_MEMORY_S).exp() as f32;
        self.size_px = size_px(&sight.box_px).max(self.size_px * forgotten);
        self.motion.see(time_s, sight.box_px);
        self.last_s = time_s;
        self.last = sight.clone();
        self.learn(time_s, sight);
    }

    fn learn(&mut self, time_s: f64, sight: &Sight) {
        self.sights += 1;
        self.proportions.add(&sight.keypoints);
        if sight.clear {
            self.appearance.add(&sight.appearance);
            if sight.appearance.views() > 0.0 {
                self.first_view_s.get_or_insert(time_s);
                self.last_view = Some((time_s, sight.appearance));
            }
        }
    }
}

/// What is measured on each detection that may be somebody; detections of the same body are one.
fn sights(frame: Option<&Mat>, detections: &[Detected], joints: Source) -> Vec<Sight> {
    let mut usable: Vec<(&Detected, Keypoints17)> = detections
        .iter()
        .filter(|detected| detected.score >= UNCERTAIN && is_usable(&detected.box_px))
        .filter_map(|detected| Some((detected, joints.to_h36m(&detected.keypoints).ok()?)))
        .collect();
    usable.sort_by(|a, b| b.0.score.total_cmp(&a.0.score));
    let mut kept: Vec<(&Detected, Keypoints17)> = Vec::with_capacity(usable.len());
    for (detected, keypoints) in usable {
        let is_same = |(other, others): &(&Detected, Keypoints17)| {
            let size = size_px(&other.box_px);
            oks(others, &keypoints, size).is_some_and(|oks| oks > SAME_POSE)
        };
        if !kept.iter().any(is_same) {
            kept.push((detected, keypoints));
        }
    }
    let boxes: Vec<BoxPx> = kept.iter().map(|(detected, _)| detected.box_px).collect();
    let sight = |(s, (detected, keypoints)): (usize, (&Detected, Keypoints17))| Sight {
        keypoints,
        box_px: detected.box_px,
        score: detected.score,
        appearance: frame.map_or_else(Appearance::default, |frame| Appearance::look(frame, &keypoints)),
        clear: boxes.iter().enumerate().all(|(other, box_px)| other == s || hidden_share(&detected.box_px, box_px) <= HIDDEN),
        crowded: false,
    };
    kept.into_iter().enumerate().map(sight).collect()
}

/// Which rows are in doubt: those of pairs where an exchange with somebody else would fit about as well, or where one person is seen
/// whose pose may be that of two.
///
/// Another track may claim the pair's detection and leave its own to the pair's track, a track that was lost may claim it, or
/// another detection that is nobody's may be the pair's.
fn doubtful_rows(claims: &[Vec<Option<Claim>>], pairs: &[(usize, usize)]) -> Vec<bool> {
    let claim = |row: usize, column: usize| claims[row][column];
    let mut doubtful = vec![false; claims.len()];
    for &(row, column) in pairs {
        let Some(own) = claim(row, column) else { continue };
        for other_row in (0..claims.len()).filter(|&other| other != row) {
            let Some(other) = claim(other_row, column) else { continue };
            let is_doubtful = match pairs.iter().find(|pair| pair.0 == other_row) {
                Some(&(_, theirs)) => match (claim(other_row, theirs), claim(row, theirs)) {
                    (Some(others_own), Some(in_return)) => own.fit + others_own.fit - other.fit - in_return.fit < 2.0 * DOUBT,
                    // An exchange that leaves somebody alone is no match for two pairs that fit.
                    _ => false,
                },
                None => other.of_somebody && (own.fit - other.fit < DOUBT || other.is_alike()),
            };
            if is_doubtful {
                doubtful[row] = true;
                doubtful[other_row] = true;
            }
        }
        let is_free = |other: usize| !pairs.iter().any(|pair| pair.1 == other);
        let rivals = (0..claims[row].len()).filter(|&other| other != column && is_free(other));
        doubtful[row] |= rivals.filter_map(|other| claim(row, other)).any(|rival| own.fit - rival.fit < DOUBT);
    }
    doubtful
}

/// How well a sight fits a track.
#[derive(Debug, Clone, Copy)]
struct Claim {
    /// 0..1
    fit: f32,
    /// Object keypoint similarity with the pose expected.
    oks: f32,
    /// The track is no passing mistake of the detector.
    of_somebody: bool,
}

impl Claim {
    fn is_alike(&self) -> bool {
        self.of_somebody && self.oks >= ALIKE
    }
}

/// Share of `own` that `other` covers.
pub(crate) fn hidden_share(own: &BoxPx, other: &BoxPx) -> f32 {
    let iou = iou(own, other);
    let [own_area, other_area] = [own, other].map(|area| area.width * area.height);
    // iou = i / (a + b - i)
    iou * (own_area + other_area) / (1.0 + iou) / own_area
}

fn is_usable(box_px: &BoxPx) -> bool {
    let BoxPx { left, top, width, height } = *box_px;
    [left, top, width, height].iter().all(|value| value.is_finite()) && width > 0.0 && height > 0.0
}

fn size_px(box_px: &BoxPx) -> f32 {
    box_px.width.max(box_px.height).max(1.0)
}

fn distance(a: &BoxPx, b: &BoxPx) -> f32 {
    let ([ax, ay], [bx, by]) = (centre(a), centre(b));
    (ax - bx).hypot(ay - by)
}

/// How far someone gets, in their own sizes.
fn reach(elapsed_s: f64) -> f32 {
    JUMP + FASTEST_PER_S * elapsed_s.max(0.0) as f32
}

fn is_near(a: &BoxPx, b: &BoxPx, size_px: f32, elapsed_s: f64) -> bool {
    distance(a, b) <= size_px * reach(elapsed_s)
}

#[cfg(test)]
mod tests;
