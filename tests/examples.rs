//! What stands in docs/examples runs.

#[path = "../docs/examples/own_kernel.rs"]
mod own_kernel;
#[path = "../docs/examples/sample_in_a_loop.rs"]
#[expect(dead_code, reason = "its main reads arguments")]
mod sample_in_a_loop;
#[path = "../docs/examples/train_on_bytes.rs"]
mod train_on_bytes;

#[test]
fn images_in_memory_are_learnt() {
    train_on_bytes::main().expect("it trains");
}

#[test]
fn a_loop_draws() {
    sample_in_a_loop::draw(None).expect("it draws");
}

#[test]
fn a_kernel_of_ones_own_is_held_to_its_twin() {
    own_kernel::main().expect("they agree");
}
