//! Prints the pipelines and studies that are compiled in.

fn main() {
    for (name, title) in pipeline::names() {
        println!("{name:<10} {title}");
    }
}
