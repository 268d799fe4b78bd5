//! What a build holds.

use std::collections::BTreeSet;

use cargo_metadata::{DependencyKind, MetadataCommand};

/// The feature that compiles failpoints in.
const FEATURE: &str = "failpoints";

#[test]
fn failpoints_are_in_no_build_but_the_tests() {
    let metadata = MetadataCommand::new().no_deps().exec().unwrap();
    let mut having = BTreeSet::new();
    for package in &metadata.packages {
        let name = package.name.as_str();
        if package.features.contains_key(FEATURE) {
            having.insert(name.to_owned());
        }
        for (feature, enabled) in &package.features {
            let enables = enabled.iter().any(|enabled| enabled.contains(FEATURE));
            assert!(
                !enables || feature == FEATURE,
                "{name}: `{feature}` enables failpoints"
            );
        }
        for dependency in &package.dependencies {
            let enables = dependency.features.iter().any(|feature| feature == FEATURE);
            let is_of_tests = dependency.kind == DependencyKind::Development
                || name == "millstream-integration-tests";
            assert!(
                !enables || is_of_tests,
                "{name} enables failpoints of {}",
                dependency.name
            );
        }
    }
    assert!(having.contains("millstream-common"), "{having:?}");
    // The fault tests' own build has them: the switch is that feature.
    const { assert!(millstream_common::failpoint::ENABLED) };
}
