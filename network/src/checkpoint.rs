//! A checkpoint file becomes a configuration and weights that fit it.
//!
//! What the shapes of the weights tell is inferred; what they cannot tell (heads, neighbours, activation, form of the
//! Mamba mixer) comes from `--set`, a `--config` file, the file itself, or a stated default, and is reported.

use std::{collections::BTreeMap, path::Path};

use formats::{StateDict, Value};

use crate::{
    Activation, ConfigError, LifterConfig, MambaForm, MambaGcnConfig, ModelConfig, WeightError,
    parameters::{Kind, slots},
    skeleton::JOINTS,
};

/// Where a value of the configuration came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// `--set` or `--mamba`.
    Set,
    /// A `--config` file.
    ConfigFile,
    /// The checkpoint's own record.
    Checkpoint,
    /// Shapes of the weights.
    Shapes,
    /// Nobody said: the default of the code that the file comes from.
    Default,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Set => "set",
            Self::ConfigFile => "from the configuration file",
            Self::Checkpoint => "recorded in the checkpoint",
            Self::Shapes => "inferred from the weights",
            Self::Default => "defaulted",
        })
    }
}

/// What a user says about a checkpoint that does not say it itself.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// A flat `key: value` (YAML, as the references have) or TOML file.
    pub config_file: Option<std::path::PathBuf>,
    /// `key=value`, by the references' keys.
    pub set: Vec<(String, String)>,
    /// Form of the Mamba mixer.
    pub mamba: Option<MambaForm>,
}

/// Why a checkpoint cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] formats::Error),
    /// A configuration file cannot be read.
    #[error("{path}: {cause}")]
    ConfigFile {
        /// The file.
        path: String,
        /// What is wrong with it.
        cause: String,
    },
    /// The weights are not those of a lifter that this code knows.
    #[error("{0}")]
    Architecture(String),
    /// A weight is missing, unknown or of another shape.
    #[error(transparent)]
    Weight(#[from] WeightError),
    /// The configuration is impossible.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A key or value told by the user.
    #[error("{0}")]
    Setting(String),
}

/// Weights with the configuration that they fit.
pub struct Checkpoint {
    /// Configuration.
    pub config: ModelConfig,
    /// Every tensor, by its name, prefixes of `DataParallel` removed.
    pub state: StateDict,
    /// Each key with its value and where that came from, for people.
    pub settings: Vec<(String, String, Origin)>,
    /// `pose::metadata::ModelMetadata` as JSON, in our own files.
    pub metadata_json: Option<String>,
    /// What a user should know.
    pub notes: Vec<String>,
    /// The whole file, for what else stands in it (optimiser, epoch).
    pub file: Value,
}

/// Keys that shapes do not tell, or that options of the reference code use.
const KNOWN_KEYS: [&str; 21] = [
    "n_layers",
    "dim_in",
    "dim_feat",
    "dim_rep",
    "dim_out",
    "mlp_ratio",
    "num_heads",
    "neighbour_num",
    "n_frames",
    "num_joints",
    "act_layer",
    "mamba",
    "use_temporal_similarity",
    "hierarchical",
    "use_tcn",
    "graph_only",
    "qkv_bias",
    "qkv_scale",
    "use_layer_scale",
    "use_adaptive_fusion",
    "dropout",
];

/// Options of the reference's classes that no published model uses: key, the only value that is supported.
const UNSUPPORTED: [(&str, &str); 8] = [
    ("use_temporal_similarity", "true"),
    ("hierarchical", "false"),
    ("use_tcn", "false"),
    ("graph_only", "false"),
    ("qkv_bias", "false"),
    ("qkv_scale", "none"),
    ("use_layer_scale", "true"),
    ("use_adaptive_fusion", "true"),
];

impl Checkpoint {
    /// Reads a `.pth` of the official code, the original MambaGCN code, or our own trainer.
    ///
    /// # Errors
    /// [`CheckpointError`], each a sentence for the user.
    pub fn read(path: &Path, overrides: &Overrides) -> Result<Self, CheckpointError> {
        Self::from_value(formats::pth::read(path)?, overrides)
    }

    /// The same of a file that is already read.
    ///
    /// # Errors
    /// [`CheckpointError`].
    pub fn from_value(file: Value, overrides: &Overrides) -> Result<Self, CheckpointError> {
        let state = StateDict::from_checkpoint(&file)?;
        let mut settings = Vec::new();
        let mut notes = Vec::new();
        let config = match own_config(&file)? {
            // only our trainer makes them, so nothing needs to be guessed
            Some(ModelConfig::Live(config)) => told_of_live(config, overrides, &mut settings)?,
            recorded => {
                let shapes = Shapes::of(&state)?;
                let told = Told::gather(&file, recorded.as_ref().and_then(ModelConfig::windowed), overrides)?;
                resolve(&shapes, &told, &mut settings, &mut notes)?.into()
            }
        };
        config.validate()?;
        check_weights(&state, &config)?;
        let metadata_json = file.get("poselift").and_then(|own| own.get("metadata")).and_then(Value::as_str).map(str::to_owned);
        Ok(Self { config, state, settings, metadata_json, notes, file })
    }

    /// What the file says of itself when our trainer writes it: the value of the key `poselift`.
    ///
    /// # Errors
    /// [`CheckpointError::Setting`] when the configuration cannot be written as TOML.
    pub fn own_record(config: &ModelConfig, metadata_json: &str) -> Result<Value, CheckpointError> {
        let toml = toml::to_string(config).map_err(|e| CheckpointError::Setting(format!("the configuration cannot be written: {e}")))?;
        Ok(Value::dict([("format", Value::Int(1)), ("config", Value::str(toml)), ("metadata", Value::str(metadata_json))]))
    }
}

/// The configuration in a file of our trainer.
fn own_config(file: &Value) -> Result<Option<ModelConfig>, CheckpointError> {
    let Some(own) = file.get("poselift") else { return Ok(None) };
    let damaged = |what: String| CheckpointError::Architecture(format!("the checkpoint's `poselift` record {what}"));
    let text = own.get("config").and_then(Value::as_str).ok_or_else(|| damaged("has no `config` text: the file is damaged".into()))?;
    toml::from_str(text).map(Some).map_err(|e| damaged(format!("cannot be read: {}", e.message())))
}

/// A live lifter's file says everything itself: it leaves nothing to be set.
fn told_of_live(
    config: crate::LiveConfig,
    overrides: &Overrides,
    settings: &mut Vec<(String, String, Origin)>,
) -> Result<ModelConfig, CheckpointError> {
    let set = overrides.set.first().map(|(key, value)| format!("--set {key}={value}"));
    let mamba = overrides.mamba.map(|form| format!("--mamba {form}"));
    let file = overrides.config_file.as_ref().map(|path| format!("--config {}", path.display()));
    if let Some(told) = set.or(mamba).or(file) {
        return Err(CheckpointError::Setting(format!(
            "{told}: the checkpoint is of a live lifter, which records its whole configuration; leave it out"
        )));
    }
    let table = toml::Table::try_from(&config).map_err(|e| CheckpointError::Setting(format!("the configuration cannot be shown: {e}")))?;
    settings.extend(table.into_iter().map(|(key, value)| (key, value.to_string(), Origin::Checkpoint)));
    Ok(config.into())
}

/// What the names and shapes of the weights tell.
struct Shapes {
    n_layers: usize,
    dim_in: usize,
    dim_feat: usize,
    dim_rep: usize,
    dim_out: usize,
    num_joints: usize,
    mlp_ratio: usize,
    n_frames: usize,
    mamba_gcn: Option<(usize, usize, bool)>, // states, kernel, attention
}

impl Shapes {
    fn of(state: &StateDict) -> Result<Self, CheckpointError> {
        let unlike = |what: &str| {
            CheckpointError::Architecture(format!(
                "the checkpoint is not of a lifter that poselift knows: {what}; expected the weights of MotionAGFormer, with or without MambaGCN"
            ))
        };
        let dims = |name: &str, rank: usize| -> Result<&[usize], CheckpointError> {
            let tensor = state.get(name).ok_or_else(|| unlike(&format!("it has no weight `{name}`")))?;
            if tensor.shape.len() == rank && !tensor.shape.contains(&0) {
                Ok(&tensor.shape)
            } else {
                Err(unlike(&format!("weight `{name}` has shape {:?}, expected {rank} axes", tensor.shape)))
            }
        };
        let has = |suffix: &str| state.get(&format!("layers.0.{suffix}")).is_some();
        let option = |key: &str| {
            Err(CheckpointError::Architecture(format!(
                "the checkpoint was trained with the option `{key}` of the reference code, which no published model uses and poselift does not support"
            )))
        };
        let embed = dims("joints_embed.weight", 2)?;
        let (dim_feat, dim_in) = (embed[0], embed[1]);
        let n_layers = state
            .names()
            .filter_map(|name| name.strip_prefix("layers.")?.split('.').next()?.parse::<usize>().ok())
            .max()
            .map_or(0, |last| last.saturating_add(1));
        if has("att_spatial.mixer.qkv.bias") {
            return option("qkv_bias");
        }
        if has("graph_spatial.U.weight") {
            return option("graph_only");
        }
        if state.names().any(|name| name.starts_with("layers.0.graph_temporal.mixer.branches.")) {
            return option("use_tcn");
        }
        if let Some(qkv) = state.get("layers.0.att_spatial.mixer.qkv.weight")
            && qkv.shape.get(1).is_some_and(|&channels| channels * 2 == dim_feat)
        {
            return option("hierarchical");
        }
        if n_layers > 0 && !has("fusion.weight") && has("graph_temporal.mixer.U.weight") {
            return option("use_adaptive_fusion = false");
        }
        if n_layers > 0 && !has("att_spatial.layer_scale_1") && has("fusion.weight") {
            return option("use_layer_scale = false");
        }
        let hidden = dims("layers.0.att_spatial.mlp.fc1.weight", 2)?[0];
        let mamba = "layers.0.mamba_gcn.branches.mamba.temporal_model";
        let mamba_gcn = if state.names().any(|name| name.starts_with("layers.0.mamba_gcn.")) {
            Some((
                dims(&format!("{mamba}.A_log"), 2)?[1],
                dims(&format!("{mamba}.conv1d.weight"), 3)?[2],
                has("mamba_gcn.branches.attention.q_proj.weight"),
            ))
        } else {
            None
        };
        Ok(Self {
            n_layers,
            dim_in,
            dim_feat,
            dim_rep: dims("rep_logit.fc.weight", 2)?[0],
            dim_out: dims("head.weight", 2)?[0],
            num_joints: dims("pos_embed", 3)?[1],
            mlp_ratio: hidden / dim_feat,
            n_frames: dims("layers.0.graph_temporal.mixer.batch_norm.weight", 1)?[0],
            mamba_gcn,
        })
    }
}

/// Who wrote a checkpoint: decides what its record is worth and which defaults hold.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Writer {
    Ours,
    /// The original MambaGCN repository: `model_state_dict` beside an `EasyDict`.
    Original,
    /// The official MotionAGFormer repository, or a bare state dict.
    Official,
}

/// What people and files say, by key: value (lower case) and origin. The strongest origin wins.
struct Told {
    values: BTreeMap<String, (String, Origin)>,
    writer: Writer,
}

impl Told {
    /// `recorded` is what our trainer wrote into the file.
    fn gather(file: &Value, recorded: Option<&LifterConfig>, overrides: &Overrides) -> Result<Self, CheckpointError> {
        let writer = match recorded {
            Some(_) => Writer::Ours,
            None if file.get("model_state_dict").is_some() => Writer::Original,
            None => Writer::Official,
        };
        let mut told = Self { values: BTreeMap::new(), writer };
        if let Some(config) = recorded {
            told.put("num_heads", config.num_heads, Origin::Checkpoint);
            told.put("neighbour_num", config.neighbour_num, Origin::Checkpoint);
            told.put("act_layer", format!("{:?}", config.act_layer), Origin::Checkpoint);
            if let Some(mamba_gcn) = &config.mamba_gcn {
                told.put("mamba", mamba_gcn.mamba, Origin::Checkpoint);
                told.put("dropout", mamba_gcn.dropout, Origin::Checkpoint);
            }
        } else if let Some(record) = ["config", "args"].iter().find_map(|key| file.get(key)) {
            // The original builds its model from its classes' defaults and records the data set's configuration:
            // its `num_heads` and `neighbour_num` are not those of the weights.
            for (key, value) in record.entries() {
                let Some(key) = key.as_str().filter(|key| KNOWN_KEYS.contains(key)) else { continue };
                if writer == Writer::Original && ["num_heads", "neighbour_num"].contains(&key) {
                    continue;
                }
                if let Some(value) = scalar(value) {
                    told.put(key, value, Origin::Checkpoint);
                }
            }
        }
        if let Some(path) = &overrides.config_file {
            for (key, value) in read_config_file(path)? {
                if KNOWN_KEYS.contains(&key.as_str()) {
                    told.put(&key, value, Origin::ConfigFile);
                }
            }
        }
        for (key, value) in &overrides.set {
            if !KNOWN_KEYS.contains(&key.as_str()) {
                return Err(CheckpointError::Setting(format!("--set {key}={value}: no such key; the keys are {}", KNOWN_KEYS.join(", "))));
            }
            told.put(key, value, Origin::Set);
        }
        if let Some(mamba) = overrides.mamba {
            told.put("mamba", mamba, Origin::Set);
        }
        Ok(told)
    }

    fn put(&mut self, key: &str, value: impl std::fmt::Display, origin: Origin) {
        self.values.insert(key.to_owned(), (value.to_string().to_lowercase(), origin));
    }

    fn parse<V: std::str::FromStr>(&self, key: &str) -> Result<Option<(V, Origin)>, CheckpointError> {
        let Some((text, origin)) = self.values.get(key) else { return Ok(None) };
        let value = text
            .parse()
            .map_err(|_| CheckpointError::Setting(format!("{key} = {text} ({origin}) is no {}", std::any::type_name::<V>())))?;
        Ok(Some((value, *origin)))
    }
}

/// A flat configuration file, TOML by its extension and else `key: value` lines.
fn read_config_file(path: &Path) -> Result<Vec<(String, String)>, CheckpointError> {
    let failed = |cause: String| CheckpointError::ConfigFile { path: path.display().to_string(), cause };
    let text = std::fs::read_to_string(path).map_err(|e| failed(format!("the configuration file cannot be read: {e}")))?;
    if path.extension().is_some_and(|extension| extension == "toml") {
        let table: toml::Table = text.parse().map_err(|e: toml::de::Error| failed(format!("not TOML: {}", e.message())))?;
        let model = table.get("model").and_then(toml::Value::as_table).unwrap_or(&table);
        return Ok(model
            .iter()
            .map(|(key, value)| (key.clone(), value.as_str().map_or_else(|| value.to_string(), str::to_owned)))
            .collect());
    }
    let value: serde_yaml_ng::Value = serde_yaml_ng::from_str(&text).map_err(|e| failed(format!("not YAML: {e}")))?;
    let mapping = value.as_mapping().ok_or_else(|| failed("expected `key: value` lines".into()))?;
    Ok(mapping
        .iter()
        .filter_map(|(key, value)| {
            let value = match value {
                serde_yaml_ng::Value::Bool(b) => b.to_string(),
                serde_yaml_ng::Value::Number(n) => n.to_string(),
                serde_yaml_ng::Value::String(s) => s.clone(),
                _ => return None,
            };
            Some((key.as_str()?.to_owned(), value))
        })
        .collect())
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::Bool(b) => Some(b.to_string()),
        Value::Int(i) => Some(i.to_string()),
        Value::Float(f) => Some(f.to_string()),
        Value::Str(s) => Some(s.clone()),
        _ => None,
    }
}

/// Shapes win over what files say; what a person says must not contradict them.
fn resolve(
    shapes: &Shapes,
    told: &Told,
    settings: &mut Vec<(String, String, Origin)>,
    notes: &mut Vec<String>,
) -> Result<LifterConfig, CheckpointError> {
    for (key, supported) in UNSUPPORTED {
        if let Some((value, origin)) = told.values.get(key)
            && value != supported
            && !(supported == "true" && value == "1")
        {
            return Err(CheckpointError::Architecture(format!(
                "{key} = {value} ({origin}): this option of the reference code, which no published model uses, is not supported (only {supported})"
            )));
        }
    }
    let mut inferred = |key: &str, shape: usize| -> Result<usize, CheckpointError> {
        match told.parse::<usize>(key)? {
            Some((value, origin @ (Origin::Set | Origin::ConfigFile))) if value != shape => {
                Err(CheckpointError::Setting(format!("{key} = {value} ({origin}), but the shapes of the weights say {shape}")))
            }
            _ => {
                settings.push((key.to_owned(), shape.to_string(), Origin::Shapes));
                Ok(shape)
            }
        }
    };
    let n_layers = inferred("n_layers", shapes.n_layers)?;
    let dim_in = inferred("dim_in", shapes.dim_in)?;
    let dim_feat = inferred("dim_feat", shapes.dim_feat)?;
    let dim_rep = inferred("dim_rep", shapes.dim_rep)?;
    let dim_out = inferred("dim_out", shapes.dim_out)?;
    let mlp_ratio = inferred("mlp_ratio", shapes.mlp_ratio)?;
    let n_frames = inferred("n_frames", shapes.n_frames)?;
    let num_joints = inferred("num_joints", shapes.num_joints)?;
    if num_joints != JOINTS {
        return Err(CheckpointError::Architecture(format!("the checkpoint lifts {num_joints} joints, expected {JOINTS} (Human3.6M)")));
    }

    let original = told.writer == Writer::Original;
    let (heads, neighbours) = if original { (4, 4) } else { (8, 2) };
    let mut choose = |key: &str, default: usize| -> Result<usize, CheckpointError> {
        let (value, origin) = told.parse(key)?.unwrap_or((default, Origin::Default));
        settings.push((key.to_owned(), value.to_string(), origin));
        Ok(value)
    };
    let num_heads = choose("num_heads", heads)?;
    let neighbour_num = choose("neighbour_num", neighbours)?;
    if original && !told.values.contains_key("num_heads") {
        notes.push("this is a file of the original MambaGCN code, which builds its model with 4 heads and 4 neighbours whatever its recorded configuration says".into());
    }
    let (activation, origin) = told.values.get("act_layer").cloned().unwrap_or(("gelu".into(), Origin::Default));
    let act_layer = match activation.as_str() {
        "gelu" => Activation::Gelu,
        "relu" => Activation::Relu,
        other => return Err(CheckpointError::Setting(format!("act_layer = {other} ({origin}), expected gelu or relu"))),
    };
    settings.push(("act_layer".into(), activation, origin));

    let mamba_gcn = match shapes.mamba_gcn {
        None => {
            if let Some((_, Origin::Set)) = told.values.get("mamba") {
                notes.push("the checkpoint has no MambaGCN branch: the Mamba form that was set changes nothing".into());
            }
            None
        }
        Some((d_state, d_conv, use_attention)) => {
            let (mamba, origin) = match told.values.get("mamba") {
                Some((form, origin)) => match form.as_str() {
                    "selective" => (MambaForm::Selective, *origin),
                    "global-mean" => (MambaForm::GlobalMean, *origin),
                    other => {
                        return Err(CheckpointError::Setting(format!("mamba = {other} ({origin}), expected selective or global-mean")));
                    }
                },
                None => {
                    notes.push("the checkpoint does not say with which Mamba it was trained, so it is taken for one of the original code: global-mean; say --mamba selective if it was trained with a true scan".into());
                    (MambaForm::GlobalMean, Origin::Default)
                }
            };
            settings.push(("mamba".into(), mamba.to_string(), origin));
            let dropout = told.parse::<f64>("dropout")?.map_or(0.1, |(value, _)| value);
            Some(MambaGcnConfig { mamba, use_attention, d_state, d_conv, dropout })
        }
    };
    Ok(LifterConfig {
        n_layers,
        dim_in,
        dim_feat,
        dim_rep,
        dim_out,
        mlp_ratio,
        num_heads,
        neighbour_num,
        n_frames,
        num_joints,
        act_layer,
        mamba_gcn,
    })
}

/// Every tensor that the architecture has is there with its shape, and no other.
fn check_weights(state: &StateDict, config: &ModelConfig) -> Result<(), WeightError> {
    let slots = slots(config);
    for slot in &slots {
        match state.get(&slot.name) {
            Some(tensor) if tensor.shape == slot.shape => {}
            // Some exporters keep the counter as one element.
            Some(tensor) if slot.kind == Kind::Counter && tensor.len() == 1 => {}
            Some(tensor) => {
                return Err(WeightError::Shape { name: slot.name.clone(), expected: slot.shape.clone(), found: tensor.shape.clone() });
            }
            None if slot.kind == Kind::Counter => {} // files that drop it lose nothing
            None => return Err(WeightError::Missing { name: slot.name.clone(), expected: slot.shape.clone() }),
        }
    }
    let known: std::collections::HashSet<&str> = slots.iter().map(|slot| slot.name.as_str()).collect();
    let names: Vec<String> = state.names().filter(|name| !known.contains(name)).map(str::to_owned).collect();
    if names.is_empty() { Ok(()) } else { Err(WeightError::Extra { names }) }
}
