//! The end-to-end tests, on one testbed that they share.

fn main() {
    tests::enter();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let started = tokio::time::Instant::now();
        let testbed = tests::Testbed::start(tests::control_plane::Patience::Default)
            .await
            .unwrap();
        println!("up after {:?}", started.elapsed());
        println!(
            "{}",
            testbed.kubectl(["get", "nodes", "-o", "wide"]).await.unwrap()
        );
    });
}
