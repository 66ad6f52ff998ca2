//! The `laconicfs` binary: see [`laconicfs::cli`].

fn main() -> std::process::ExitCode {
    laconicfs::cli::main()
}
