//! Model directories, GGUF files and PEFT adapters: read, checked, written.
