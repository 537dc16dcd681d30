//! A program that is linked to libtorch and does nothing: what a start costs at least on a machine.

fn main() {
    std::hint::black_box(tch::Tensor::numel as fn(&tch::Tensor) -> usize);
}
