//! Files that Python, numpy and torch wrote, against what Python says they hold.
mod common;

use common::*;
use formats::{StateDict, pth};

#[test]
fn fixtures_hold_what_python_says() {
    let table = table("expected.txt");
    assert_eq!(table.len(), 54);
    for line in table {
        let [name, expected] = &line[..] else { panic!("{line:?}") };
        let value = read_any(&fixtures().join(name)).unwrap_or_else(|error| panic!("{error}"));
        assert_same(name, expected, &say(&value));
    }
}

/// All of each checkpoint by checksum, its weights also by name.
#[test]
fn golden_checkpoints_hold_what_python_says() {
    for line in table("golden.txt") {
        let [name, checksum, count, elements, first, last, first_element, last_element] = &line[..] else { panic!("{line:?}") };
        let checkpoint = pth::read(&golden().join(name)).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(&format!("{:08x}", crc32(say(&checkpoint).as_bytes())), checksum, "{name}");

        let weights = StateDict::from_checkpoint(&checkpoint).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(&weights.len().to_string(), count, "{name}");
        assert_eq!(&weights.iter().map(|(_, t)| t.len()).sum::<usize>().to_string(), elements, "{name}");
        let names: Vec<_> = weights.names().collect();
        assert_eq!([names[0], names[names.len() - 1]], [first, last], "{name}");
        assert_eq!(weights.get(first).unwrap().to_f64()[0], first_element.parse::<f64>().unwrap(), "{name}");
        assert_eq!(weights.get(last).unwrap().to_f64().last(), Some(&last_element.parse::<f64>().unwrap()), "{name}");
        assert!(names.iter().all(|n| !n.contains("module")), "{name}");
    }
}

#[test]
fn the_same_checkpoint_in_three_layouts() {
    let folder = golden().join("tiny/official_with_optimizer");
    let zip = pth::read(&folder.join("best_epoch.pth.tr")).unwrap();
    assert_eq!(zip, pth::read(&folder.join("legacy_tar_best_epoch.pth.tr")).unwrap());
    assert_eq!(zip, pth::read(&folder.join("numpy1_best_epoch.pth.tr")).unwrap());
    let group = &zip.get("optimizer").unwrap().get("param_groups").unwrap().items().unwrap()[0];
    assert_eq!(group.get("betas").unwrap().items().unwrap()[1].as_f64(), Some(0.999));
}

#[test]
fn an_easydict_inside_is_read_by_key() {
    let checkpoint = pth::read(&golden().join("tiny/original_mamba_gcn_fixed/best_mamba_gcn.pth")).unwrap();
    let config = checkpoint.get("config").unwrap();
    assert!(matches!(config, formats::Value::Object { class, .. } if class == "easydict.EasyDict"));
    assert!(config.get("n_layers").or(config.get("dim_feat")).and_then(formats::Value::as_i64).is_some(), "{:?}", config.entries());
    assert_eq!(config.get("no such key"), None);
}

/// Data sets as numpy 1 and numpy 2 write them.
#[test]
fn data_sets_hold_what_python_says() {
    let Some(folder) = shared("reference/formats") else { return };
    let table = table("formats.txt");
    assert_eq!(table.len(), 261);
    for line in table {
        let [name, checksum] = &line[..] else { panic!("{line:?}") };
        let value = read_any(&folder.join(name)).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(&format!("{:08x}", crc32(say(&value).as_bytes())), checksum, "{name}");
    }
}

#[test]
fn one_array_of_an_archive() {
    let path = fixtures().join("stored.npz");
    let value = formats::npz::get_value(&path, "object_0").unwrap();
    assert_eq!(value.get("inside").unwrap().items().unwrap().len(), 1);
    let message = formats::npz::get_value(&path, "absent").unwrap_err().to_string();
    assert!(message.ends_with("has no array 'absent'; it has bool, c, fortran, object_0, text"), "{message}");
    let message = formats::npz::read(&path).unwrap_err().to_string();
    assert!(message.contains("stored.npz: expected an array of numbers in 'object_0', found a dictionary of 1"), "{message}");
    let message = formats::npy::read(&fixtures().join("text.npy")).unwrap_err().to_string();
    assert!(message.contains("text.npy: expected an array of numbers, found a list of 2"), "{message}");
}

/// The full-size selective model has exactly the parameters that the specification counts; BatchNorm's statistics and the skeleton's graph are buffers.
#[test]
fn the_full_size_checkpoint_has_its_parameters() {
    let Some(folder) = shared("reference/full/mamba_gcn_selective_243") else { return };
    let weights = StateDict::from_checkpoint(&pth::read(&folder.join("best_mamba_gcn.pth")).unwrap()).unwrap();
    let is_buffer =
        |name: &str| ["running_mean", "running_var", "num_batches_tracked", "adj_matrix"].iter().any(|buffer| name.ends_with(buffer));
    let parameters: usize = weights.iter().filter(|(name, _)| !is_buffer(name)).map(|(_, tensor)| tensor.len()).sum();
    assert_eq!(parameters, 16_247_251);
}
