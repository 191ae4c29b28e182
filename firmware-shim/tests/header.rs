//! The header that firmware is compiled with is the one that the library's source makes.

use std::path::Path;

/// With `UPDATE_HEADER` set the header is written instead.
#[test]
fn the_header_is_the_one_made_from_the_source() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(package.join("cbindgen.toml")).expect("is valid");
    let bindings = cbindgen::Builder::new()
        .with_config(config)
        .with_src(package.join("src/c_api/mod.rs"))
        .generate()
        .expect("the source is understood");
    let mut made = Vec::new();
    bindings.write(&mut made);
    let made = String::from_utf8(made).expect("UTF-8");
    let header = package.join("include/firmware_shim.h");
    if std::env::var_os("UPDATE_HEADER").is_some() {
        std::fs::write(&header, &made).expect("the package is writable");
    }
    let kept = std::fs::read_to_string(&header).unwrap_or_default();
    assert!(
        kept == made,
        "{} is not what the source makes; run this test with UPDATE_HEADER=1",
        header.display()
    );
}
