//! The fine-tuning command.

fn main() -> std::process::ExitCode {
    // First, while there is no other thread.
    tensor_core::device::keep_few_products();
    // Before any tensor: libtorch decides once whether it has CUDA. A failure comes up again where CUDA is asked for.
    let _ = tensor_core::device::load_cuda();
    tensor_core::device::keep_memory();
    finetune::run()
}
