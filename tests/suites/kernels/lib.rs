//! `src/kernel` as it is, with the one thing that it takes from above.

#[path = "../../../src/kernel/mod.rs"]
pub mod kernel;

/// As `laconicfs::error`, as far as kernels need it.
pub mod error {
    pub type Result<T, E = Error> = std::result::Result<T, E>;

    #[derive(Debug)]
    pub enum Error {
        Model(String),
    }

    impl std::fmt::Display for Error {
        fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
            let Error::Model(what) = self;
            f.write_str(what)
        }
    }
}
