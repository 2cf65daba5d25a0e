//! Puts the page together: style and modules of `src/page` into one HTML file, with a security policy that knows them by their hashes.

use std::{env, error::Error, fmt::Write as _, fs, path::Path};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use sha2::{Digest as _, Sha256};

/// In the order of who needs whom. Each name of a module's top level is the only one of its kind.
const MODULES: [&str; 15] = [
    "skeleton", "maths", "angles", "track", "clip", "live", "replay", "orbit", "gl", "stage", "overlay", "plots", "timeline", "player",
    "main",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=src/page");
    let folder = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("src/page");
    let read = |name: &str| fs::read_to_string(folder.join(name)).map_err(|error| format!("src/page/{name}: {error}"));
    let style = read("style.css")?;
    let mut script = String::from("\"use strict\";\n");
    for module in MODULES {
        write!(script, "\n// {module}.js\n{}", without_module_words(&read(&format!("{module}.js"))?))?;
    }
    if script.contains("</script") || style.contains("</style") {
        return Err("script and style must not hold the tags that end them".into());
    }
    let hash = |text: &str| format!("'sha256-{}'", BASE64_STANDARD.encode(Sha256::digest(text)));
    let policy = format!(
        "default-src 'none'; script-src {}; style-src {}; img-src 'self' blob: data:; media-src 'self' blob:; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash(&script),
        hash(&style)
    );
    let page = read("index.html")?.replacen("<style></style>", &format!("<style>{style}</style>"), 1).replacen(
        "<script type=\"module\"></script>",
        &format!("<script type=\"module\">{script}</script>"),
        1,
    );
    fs::write(Path::new(&env::var("OUT_DIR")?).join("page.html"), page)?;
    println!("cargo::rustc-env=POSELIFT_PAGE_POLICY={policy}");
    Ok(())
}

/// All modules share one scope: imports go, and `export`.
fn without_module_words(module: &str) -> String {
    let mut lines = String::new();
    for line in module.lines().filter(|line| !line.starts_with("import ")) {
        lines.push_str(line.strip_prefix("export ").unwrap_or(line));
        lines.push('\n');
    }
    lines
}
