//! The fine-tuning command.

fn main() -> std::process::ExitCode {
    // Before anything else: libtorch decides once whether it has CUDA. A failure comes up again where CUDA is asked for.
    let _ = tensor_core::device::load_cuda();
    tensor_core::device::keep_memory();
    tensor_core::device::keep_few_products();
    finetune::run()
}
