//! What remains of a run for people: a page, tables, curves and pictures of predictions, all made from what the run has written.

use std::{collections::BTreeSet, path::Path};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use serde_json::Value as Json;

use crate::{
    canvas::write_file,
    chart::{Curve, Figure, curves, sheet},
    recipe::Recipe,
    train::METRICS_FILE,
};

/// The page.
pub const REPORT_FILE: &str = "training_report.md";
/// All epochs as one JSON array.
pub const METRICS_JSON_FILE: &str = "metrics.json";
/// All epochs as a table.
pub const METRICS_CSV_FILE: &str = "metrics.csv";
/// Loss, validation and learning rate over epochs.
pub const CURVES_FILE: &str = "curves.png";
/// Predictions on validation clips.
pub const PREDICTIONS_FILE: &str = "predictions.png";
/// Rows of the page's table; a longer run shows every so many epochs.
const ROWS: usize = 40;

/// What the run itself knows beside its files.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// Clips of an epoch.
    pub clips_per_epoch: Option<usize>,
    /// Who is in the validation set.
    pub validation: Option<String>,
    /// Predictions to draw.
    pub predictions: Vec<Figure>,
    /// Fine-tuning: who is in the base data that is watched.
    pub base: Option<String>,
    /// Why the run ended before its last epoch.
    pub ended: Option<String>,
}

/// Writes the report of the run in `folder` from its metrics.
///
/// # Errors
/// No metrics in the folder, or files that cannot be written.
pub fn write(folder: &Path, recipe: &Recipe, about: &About) -> Result<()> {
    let epochs = read_metrics(folder)?;
    let pretty = serde_json::to_string_pretty(&epochs).context("the metrics cannot be written as JSON")?;
    write_file(&folder.join(METRICS_JSON_FILE), pretty.as_bytes())?;
    write_file(&folder.join(METRICS_CSV_FILE), csv(&epochs).as_bytes())?;
    curves(&panels(&epochs), "epoch").save(&folder.join(CURVES_FILE))?;
    if !about.predictions.is_empty() {
        let title = format!("{}: predictions on validation clips over the truth (grey)", recipe.name);
        sheet(&title, &about.predictions, 3).save(&folder.join(PREDICTIONS_FILE))?;
    }
    let page = page(folder, recipe, about, &epochs)?;
    Ok(write_file(&folder.join(REPORT_FILE), page.as_bytes())?)
}

/// The lines of [`METRICS_FILE`].
fn read_metrics(folder: &Path) -> Result<Vec<Json>> {
    let path = folder.join(METRICS_FILE);
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("{}: cannot be read; is this the folder of a run that has finished an epoch?", path.display()))?;
    let lines = text.lines().filter(|line| !line.trim().is_empty()).enumerate();
    let epochs: Vec<Json> = lines
        .map(|(i, line)| serde_json::from_str(line).with_context(|| format!("{}: line {} is no JSON", path.display(), i + 1)))
        .collect::<Result<_>>()?;
    ensure!(!epochs.is_empty(), "{}: it is empty; has the run finished an epoch?", path.display());
    Ok(epochs)
}

/// The figures of an epoch that are numbers, `validation.` before those of the validation and `base.` before those of the base data.
fn numbers(epoch: &Json) -> Vec<(String, f64)> {
    let own = epoch.as_object().into_iter().flatten().map(|(key, value)| (key.clone(), value));
    let within =
        |part: &'static str| epoch[part].as_object().into_iter().flatten().map(move |(key, value)| (format!("{part}.{key}"), value));
    own.chain(within("validation")).chain(within("base")).filter_map(|(key, value)| Some((key, value.as_f64()?))).collect()
}

fn number(epoch: &Json, key: &str) -> f64 {
    numbers(epoch).into_iter().find(|(name, _)| name == key).map_or(f64::NAN, |(_, value)| value)
}

/// Keys of the validation's errors in any epoch: all but counts.
fn validation_keys(epochs: &[Json]) -> Vec<String> {
    error_keys(epochs, "validation.")
}

fn error_keys(epochs: &[Json], prefix: &str) -> Vec<String> {
    let keys: BTreeSet<String> = epochs
        .iter()
        .flat_map(numbers)
        .map(|(key, _)| key)
        .filter(|key| key.starts_with(prefix) && !key.contains("forgetting") && !key.ends_with(".frames") && !key.ends_with(".clips"))
        .collect();
    keys.into_iter().collect()
}

/// A comma-separated table, one row for each epoch.
fn csv(epochs: &[Json]) -> String {
    let first = ["epoch", "step", "learning_rate", "loss", "mpjpe", "n_mpjpe", "velocity", "clips_per_s", "elapsed_s"];
    let keys: Vec<String> =
        first.map(str::to_owned).into_iter().chain(validation_keys(epochs)).chain(error_keys(epochs, "base.")).collect();
    let mut text = keys.join(",") + ",best\n";
    for epoch in epochs {
        let row = keys.iter().map(|key| {
            let value = number(epoch, key);
            if value.is_nan() { String::new() } else { value.to_string() }
        });
        text += &format!("{},{}\n", row.collect::<Vec<_>>().join(","), epoch["best"].as_bool().unwrap_or(false));
    }
    text
}

/// What a fine-tuning did: epoch 0, the checkpoint that it started from, beside the epoch that was kept.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    /// The epoch that was kept; 0 where nothing was better than the start.
    pub epoch: u64,
    /// Each error: its name, before, after.
    pub errors: Vec<(String, f64, f64)>,
}

impl Change {
    /// Of the run in a folder; `None` where it was no fine-tuning.
    ///
    /// # Errors
    /// No metrics in the folder.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        Ok(Self::of(&read_metrics(folder)?))
    }

    fn of(epochs: &[Json]) -> Option<Self> {
        let before = epochs.iter().find(|epoch| epoch["epoch"].as_u64() == Some(0))?;
        let after = epochs.iter().rev().find(|epoch| epoch["best"].as_bool() == Some(true)).unwrap_or(before);
        let keys = error_keys(epochs, "validation.").into_iter().chain(error_keys(epochs, "base."));
        let errors = keys.map(|key| (key.clone(), number(before, &key), number(after, &key))).collect();
        Some(Self { epoch: after["epoch"].as_u64().unwrap_or_default(), errors })
    }

    /// As a table in Markdown.
    pub fn table(&self) -> String {
        let mut text = format!("| error | before | after (epoch {}) | change |\n|---|---|---|---|\n", self.epoch);
        for (key, before, after) in &self.errors {
            let name = match key.split_once('.') {
                Some(("base", figure)) => format!("base data: {figure}"),
                Some((_, figure)) => format!("held-out clips: {figure}"),
                None => key.clone(),
            };
            text += &format!("| {name} | {before:.2} | {after:.2} | {:+.1} % |\n", 100.0 * (after / before - 1.0));
        }
        text
    }
}

fn curve(epochs: &[Json], key: &str, name: &str) -> Curve {
    Curve { name: name.to_owned(), points: epochs.iter().map(|epoch| [number(epoch, "epoch"), number(epoch, key)]).collect() }
}

fn panels(epochs: &[Json]) -> Vec<(String, Vec<Curve>)> {
    let terms = ["loss", "mpjpe", "n_mpjpe"];
    let is_step = |key: &str| key.ends_with("mpjve_mm");
    let of = |unit: &str| -> Vec<Curve> {
        let keys = validation_keys(epochs).into_iter().filter(|key| key.ends_with(unit) && !is_step(key));
        keys.map(|key| curve(epochs, &key, key.trim_start_matches("validation.").trim_end_matches(unit))).collect()
    };
    let mut panels =
        vec![("training loss and its terms before their weights".to_owned(), terms.iter().map(|key| curve(epochs, key, key)).collect())];
    panels.push(("training loss, velocity term".to_owned(), vec![curve(epochs, "velocity", "velocity")]));
    for (unit, title) in [("_mm", "validation, mm"), ("_px", "validation, px of a 1000-px frame"), ("_percent", "validation, %")] {
        let curves = of(unit);
        if !curves.is_empty() {
            panels.push((title.to_owned(), curves));
        }
    }
    let of_base: Vec<Curve> = error_keys(epochs, "base.")
        .into_iter()
        .filter(|key| !is_step(key))
        .map(|key| curve(epochs, &key, key.trim_start_matches("base.")))
        .collect();
    if !of_base.is_empty() {
        panels.push(("base data".to_owned(), of_base));
    }
    let steps: Vec<String> = validation_keys(epochs).into_iter().filter(|key| is_step(key)).collect();
    if let Some(key) = steps.first() {
        panels.push(("validation, MPJVE, mm per frame".to_owned(), vec![curve(epochs, key, "mpjve")]));
    }
    panels.push(("learning rate".to_owned(), vec![curve(epochs, "learning_rate", "learning rate")]));
    panels
}

fn page(folder: &Path, recipe: &Recipe, about: &About, epochs: &[Json]) -> Result<String> {
    let last = &epochs[epochs.len() - 1];
    let best = epochs.iter().rev().find(|epoch| epoch["best"].as_bool() == Some(true)).unwrap_or(last);
    let chosen_by = last["chosen_by"].as_str().unwrap_or("mpjpe_root_depth_mm").to_owned();
    let mut text = format!("# {}\n\n{}\n\n", recipe.name, recipe.trained_on);
    let mut row = |name: &str, value: String| text += &format!("| {name} | {value} |\n");
    row("", String::new());
    row("---", "---".into());
    row("parameters", network::parameter_count(&recipe.model).to_string());
    row("frames, input channels", format!("{}, {}", recipe.sample_frames(), recipe.model.dim_in()));
    row("data", serde_json::to_value(recipe.data.kind)?.as_str().unwrap_or_default().to_owned());
    if let Some(clips) = about.clips_per_epoch {
        row("clips of an epoch", clips.to_string());
    }
    row("batch, epochs planned", format!("{}, {}", recipe.train.batch_size, recipe.train.epochs));
    row("peak learning rate", recipe.train.learning_rate.to_string());
    row("seed", recipe.train.seed.to_string());
    row("epochs done, steps", format!("{}, {}", number(last, "epoch"), number(last, "step")));
    row("time", format!("{:.1} min, {:.1} clips/s at the end", number(last, "elapsed_s") / 60.0, number(last, "clips_per_s")));
    if let Some(validation) = &about.validation {
        row("validated on", validation.clone());
    }
    if let Some(base) = &about.base {
        row("base data that is watched", base.clone());
    }
    if let Some(ended) = &about.ended {
        row("ended early", ended.clone());
    }
    row(
        "checkpoint",
        format!("epoch {}, the least {chosen_by}: {:.3}", number(best, "epoch"), number(best, &format!("validation.{chosen_by}"))),
    );
    if recipe.data.validate_on_test {
        text += "\n**The checkpoint was chosen on the test set**, as the references do: its figure is the least of many looks at that set and no \
                 measure of what the model does on people that nothing was chosen on.\n";
    }
    text += match chosen_by.as_str() {
        "mpjpe_root_depth_mm" => {
            "\nValidation is on motion capture through random cameras: `mpjpe_root_depth_mm` is root-relative at the true root depth (oracle scale), \
             `mpjpe_default_height_mm` with a height of 1.70 m instead. Compare them with no paper's numbers.\n"
        }
        "image_space_error_px" => {
            "\nValidation is `image_space_error_px`, the mean of |500 (p - y)| in normalised image space: pixels of a 1000-px frame, no millimetres. \
             `trainer eval --protocol` gives the figures that papers have.\n"
        }
        _ => "\nValidation is the set's own protocol: see `trainer eval --help` for what it may be compared with.\n",
    };
    if let Some(change) = Change::of(epochs) {
        text += &format!("\n## Before and after\n\n{}", change.table());
    }
    text += &format!("\n![curves]({CURVES_FILE})\n");
    if folder.join(PREDICTIONS_FILE).is_file() {
        text += &format!("\nPredictions of the last weights on validation clips, truth in grey:\n\n![predictions]({PREDICTIONS_FILE})\n");
    }

    let keys = validation_keys(epochs);
    let names: Vec<&str> = keys.iter().map(|key| key.trim_start_matches("validation.")).collect();
    text +=
        &format!("\n| epoch | learning rate | loss | {} | best |\n|---|---|---|{}---|\n", names.join(" | "), "---|".repeat(names.len()));
    let every = epochs.len().div_ceil(ROWS);
    for (i, epoch) in epochs.iter().enumerate().filter(|(i, _)| i % every == 0 || i + 1 == epochs.len()) {
        let figures: Vec<String> = keys.iter().map(|key| format!("{:.2}", number(epoch, key))).collect();
        let mark = if epoch["best"].as_bool() == Some(true) { "yes" } else { "" };
        let (at, rate, loss) = (number(epoch, "epoch"), number(epoch, "learning_rate"), number(epoch, "loss"));
        text +=
            &format!("| {} | {rate:.2e} | {loss:.4} | {} | {mark} |\n", if at.is_nan() { (i + 1) as f64 } else { at }, figures.join(" | "));
    }
    text += &format!(
        "\nFiles: `best.pth` (the checkpoint above), `final.pth`, `last.pth` (to resume), `recipe.toml`, `training.log`, `{METRICS_FILE}`, `{METRICS_JSON_FILE}`, `{METRICS_CSV_FILE}`.\n"
    );
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe() -> Recipe {
        Recipe::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../models/configs/tiny-test.toml").as_ref(), &[]).unwrap()
    }

    #[test]
    fn a_report_is_made_of_the_metrics() {
        let folder = tempfile::tempdir().unwrap();
        let line = |epoch: u32, error: f64, best: bool| {
            format!(
                r#"{{"epoch":{epoch},"step":{},"learning_rate":0.001,"loss":{error},"mpjpe":0.1,"n_mpjpe":0.1,"velocity":0.01,"validation":{{"frames":9,"mpjpe_mm":{error}}},"chosen_by":"mpjpe_mm","best":{best},"clips_per_s":3.0,"elapsed_s":60.0}}"#,
                epoch * 10
            )
        };
        let lines = [line(1, 50.0, true), line(2, 40.5, true), line(3, 45.0, false)].join("\n");
        std::fs::write(folder.path().join(METRICS_FILE), lines).unwrap();
        let about = About { predictions: vec![Figure { pose: Some([[0.5; 3]; 17]), ..Figure::default() }], ..About::default() };
        write(folder.path(), &recipe(), &about).unwrap();
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        let page = read(REPORT_FILE);
        for expected in ["# tiny-test", "epoch 2, the least mpjpe_mm: 40.500", "| 3 | 1.00e-3 | 45.0000 | 45.00 |  |", "predictions.png"] {
            assert!(page.contains(expected), "{expected} is not in {page}");
        }
        assert!(!page.contains("chosen on the test set"));
        let csv = read(METRICS_CSV_FILE);
        assert_eq!(csv.lines().next().unwrap().split(',').next_back(), Some("best"));
        assert_eq!(csv.lines().nth(2).unwrap(), "2,20,0.001,40.5,0.1,0.1,0.01,3,60,40.5,true");
        assert_eq!(serde_json::from_str::<Json>(&read(METRICS_JSON_FILE)).unwrap().as_array().unwrap().len(), 3);
        assert!(folder.path().join(CURVES_FILE).metadata().unwrap().len() > 1000);
    }

    #[test]
    fn a_folder_without_a_run_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let error = |text: Option<&str>| {
            if let Some(text) = text {
                std::fs::write(folder.path().join(METRICS_FILE), text).unwrap();
            }
            format!("{:#}", write(folder.path(), &recipe(), &About::default()).unwrap_err())
        };
        assert!(error(None).contains("is this the folder of a run"));
        assert!(error(Some("\n")).contains("it is empty"));
        assert!(error(Some("{}\nno json")).contains("line 2 is no JSON"));
    }
}
