//! Prints what can be fetched, and whether it is in the local store.

use fetch::Cache;

fn main() -> anyhow::Result<()> {
    let store = Cache::from_env(|line| eprintln!("{line}"))?;
    print!("{}", fetch::table(&store));
    Ok(())
}
