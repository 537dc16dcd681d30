//! What PEFT and Transformers recorded, through this crate's own way: recipes, surgery, the loop, files.

mod adapters;
mod chat_templates;
mod logits;
mod multimodal;
mod preference_steps;
mod trajectories;
