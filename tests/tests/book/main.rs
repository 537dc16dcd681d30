//! The book in `docs` and the pages at the root: their links, their commands, and the pages that are written from the code.

mod commands;
mod commands_page;
mod errors;
mod figures;
mod links;
mod pages;
mod recipe_page;
mod recipes;
mod schema;
mod words;
