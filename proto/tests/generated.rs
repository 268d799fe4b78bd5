//! `generated/` is what `proto/` says. It is kept in the sources because its generator takes longer to compile than the crate.

use std::{error::Error, fs, path::Path};

#[test]
fn the_generated_code_is_that_of_the_proto_file() -> Result<(), Box<dyn Error>> {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let protos = crate_folder.join("proto");
    let kept = crate_folder.join("generated/millstream.v1.rs");
    let folder = tempfile::tempdir()?;
    let descriptors = protox::compile([protos.join("millstream.proto")], [&protos])?;
    tonic_prost_build::configure()
        .bytes(".")
        .btree_map(".")
        .out_dir(folder.path())
        .compile_fds(descriptors)?;
    let generated = fs::read_to_string(folder.path().join("millstream.v1.rs"))?;
    if std::env::var_os("UPDATE_PROTO").is_some() {
        fs::write(&kept, &generated)?;
    }
    assert!(
        fs::read_to_string(&kept)? == generated,
        "{} is stale; renew it: UPDATE_PROTO=1 cargo test -p millstream-proto --test generated",
        kept.display()
    );
    Ok(())
}
