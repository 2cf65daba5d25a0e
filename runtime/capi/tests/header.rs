//! The header is the library's.

/// `UPDATE_HEADER=1 cargo test -p poselift-capi --test header` writes it anew.
#[test]
fn the_header_is_up_to_date() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(folder.join("cbindgen.toml")).unwrap();
    let mut made = Vec::new();
    cbindgen::Builder::new().with_src(folder.join("src/lib.rs")).with_config(config).generate().unwrap().write(&mut made);
    let made = String::from_utf8(made).unwrap();
    let path = folder.join("include/poselift.h");
    if std::env::var_os("UPDATE_HEADER").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == made, "include/poselift.h is not what src/lib.rs says: UPDATE_HEADER=1 cargo test -p poselift-capi --test header");
}
