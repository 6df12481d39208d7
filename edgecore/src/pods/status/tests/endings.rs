//! What is said of a pod that ends, and when.

use super::*;

#[test]
fn last_words_keep_their_share_of_the_pods_limit() {
    let named = |name: &str| json!({"name": name, "image": "i"});
    let spec = json!({"initContainers": [named("i")], "containers": [named("a"), named("b"), named("c")],
        "ephemeralContainers": [named("e")]});
    let ended = |name: &str, id: &str| {
        let mut ended = seen(name, id, Run::Exited, 1);
        ended.last_words = "\u{e9}".repeat(2000);
        ended
    };
    let mut world = World::new(
        pod(&spec),
        observed(vec![ended("c", "2"), ended("c", "1"), ended("i", "3")]),
    );
    let status = world.status(7);
    let told: Vec<usize> = spec::container_statuses(&status)
        .iter()
        .flat_map(|container| [container.state.clone(), container.last_state.clone()])
        .filter_map(|state| Some(state?.terminated?.message?.len()))
        .collect();
    // A fifth of 12 KiB is an odd number of bytes, and each character has two.
    assert_eq!(told, [2456; 3]);
    world.last = Some(status.clone());
    assert_eq!(world.status(7), status, "and nothing more is cut");
}
