//! Makes `generated/` of `millstream-proto` from its `.proto` file. The result is kept in the sources: this takes longer to compile than the protocol itself.

use std::{
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
};

const CODE: &str = "millstream.v1.rs";

fn main() -> Result<(), Box<dyn Error>> {
    fs::write(kept(), generate()?)?;
    Ok(())
}

/// Asked for when it runs, under Cargo: a target directory may outlive the checkout that this was compiled in.
fn protocol() -> PathBuf {
    let package = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default();
    Path::new(&package).join("..")
}

fn kept() -> PathBuf {
    protocol().join("generated").join(CODE)
}

fn generate() -> Result<String, Box<dyn Error>> {
    let protos = protocol().join("proto");
    let folder = tempfile::tempdir()?;
    let descriptors = protox::compile([protos.join("millstream.proto")], [&protos])?;
    tonic_prost_build::configure()
        .bytes(".")
        .btree_map(".")
        .out_dir(folder.path())
        .compile_fds(descriptors)?;
    Ok(fs::read_to_string(folder.path().join(CODE))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_that_is_kept_is_that_of_the_proto_file() -> Result<(), Box<dyn Error>> {
        assert!(
            fs::read_to_string(kept())? == generate()?,
            "{} is stale; renew it: cargo run -p millstream-proto-generate",
            kept().display()
        );
        Ok(())
    }
}
