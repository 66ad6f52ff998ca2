//! The one list of all settings.

use super::{Config, size, value};

/// A setting.
pub struct Key {
    /// `section.key`, as in files and after `--set`.
    pub name: &'static str,
    /// The environment variable.
    pub variable: &'static str,
    /// The value that counts when nobody says otherwise, as one would write it.
    pub default: &'static str,
    /// What it takes, for manuals: `SIZE`.
    pub takes: &'static str,
    /// Plain sentences for the manual and the example file.
    pub help: &'static str,
    /// Puts a value, as it is written, into its field; or says in a phrase
    /// what it should have been.
    pub(super) set: fn(&mut Config, &str) -> Result<(), String>,
    /// The value in force, as one would write it.
    pub(super) get: fn(&Config) -> String,
}

impl Key {
    pub fn section(&self) -> &'static str {
        self.name.split_once('.').map_or("", |(section, _)| section)
    }

    /// The name inside its section.
    pub fn key(&self) -> &'static str {
        self.name.split_once('.').map_or(self.name, |(_, key)| key)
    }

    pub(super) fn named(name: &str) -> Option<&'static Key> {
        KEYS.iter().find(|key| key.name == name)
    }
}

/// All settings, those of a section together, in the order of the manual.
pub const KEYS: &[Key] = &[
    Key {
        name: "mount.options",
        variable: "LACONICFS_MOUNT_OPTIONS",
        default: "",
        takes: "OPTIONS",
        help: "Mount options, separated by commas, as after -o; those of the command line come \
               after them, and so win. The options dev and suid are not taken from the file in a \
               store, which may have come from elsewhere.",
        set: |config, text| value::put(&mut config.mount.options, value::options(text)),
        get: |config| config.mount.options.clone(),
    },
    Key {
        name: "cache.memory",
        variable: "LACONICFS_CACHE_MEMORY",
        default: "auto",
        takes: "SIZE",
        help: "Memory that the daemon takes at most, model, caches and decoders together; auto is \
               a quarter of what the machine, or its control group, allows.",
        set: |config, text| value::put(&mut config.cache.memory, value::memory(text)),
        get: |config| config.cache.memory.map_or("auto".into(), size::show),
    },
    Key {
        name: "cache.size",
        variable: "LACONICFS_CACHE_SIZE",
        default: "256M",
        takes: "SIZE",
        help: "Of that, memory for chunks that have been decoded. A file that is read again from here \
               costs nothing.",
        set: |config, text| value::put(&mut config.cache.size, size::parse(text)),
        get: |config| size::show(config.cache.size),
    },
    Key {
        name: "drain.quiet",
        variable: "LACONICFS_DRAIN_QUIET",
        default: "30s",
        takes: "TIME",
        help: "A chunk that has been left alone for so long is coded small, in the background. \
               Longer spares work on files that change again and again.",
        set: |config, text| value::put(&mut config.drain.quiet, value::duration(text)),
        get: |config| value::show_duration(config.drain.quiet),
    },
    Key {
        name: "drain.threads",
        variable: "LACONICFS_DRAIN_THREADS",
        default: "all",
        takes: "N",
        help: "Threads that code in the background: a number, or all for as many as the machine \
               runs at once. 0 leaves all of it to `laconicfs drain`.",
        set: |config, text| value::put(&mut config.drain.threads, value::unless("all", text)),
        get: |config| value::show_unless("all", &config.drain.threads),
    },
    Key {
        name: "drain.cpu_share",
        variable: "LACONICFS_DRAIN_CPU_SHARE",
        default: "100",
        takes: "PERCENT",
        help: "Per cent of its time that each of these threads works, 1 to 100. In the background \
               they run at idle priority in any case; less than 100 keeps a laptop cool.",
        set: |config, text| value::put(&mut config.drain.cpu_share, value::percent(text)),
        get: |config| config.drain.cpu_share.to_string(),
    },
    Key {
        name: "drain.hours",
        variable: "LACONICFS_DRAIN_HOURS",
        default: "always",
        takes: "HOURS",
        help: "The hours of the day, local time, in which it works: 22:00-06:00, or several \
               such ranges separated by commas, or always. `laconicfs drain` works at any time.",
        set: |config, text| value::put(&mut config.drain.hours, text.parse()),
        get: |config| config.drain.hours.to_string(),
    },
    Key {
        name: "drain.max_load",
        variable: "LACONICFS_DRAIN_MAX_LOAD",
        default: "off",
        takes: "LOAD",
        help: "It rests while the load average of the last minute is above this number.",
        set: |config, text| value::put(&mut config.drain.max_load, value::load(text)),
        get: |config| value::show_unless("off", &config.drain.max_load),
    },
    Key {
        name: "drain.min_battery",
        variable: "LACONICFS_DRAIN_MIN_BATTERY",
        default: "off",
        takes: "PERCENT",
        help: "It rests while the machine runs on battery and that holds less than so many per \
               cent. 100: never on battery.",
        set: |config, text| value::put(&mut config.drain.min_battery, value::battery(text)),
        get: |config| value::show_unless("off", &config.drain.min_battery),
    },
    Key {
        name: "drain.lm_margin",
        variable: "LACONICFS_DRAIN_LM_MARGIN",
        default: "3",
        takes: "PERCENT",
        help: "Per cent by which the language model must beat the other codecs for a chunk to be \
               coded with it, 0 to 100: what it saves costs time at every cold read.",
        set: |config, text| value::put(&mut config.drain.lm_margin, value::margin(text)),
        get: |config| config.drain.lm_margin.to_string(),
    },
    Key {
        name: "metrics.listen",
        variable: "LACONICFS_METRICS_LISTEN",
        default: "off",
        takes: "ADDRESS",
        help: "Where metrics are served to Prometheus: a loopback address such as \
               127.0.0.1:9464, or the absolute path of a Unix socket, or off.",
        set: |config, text| value::put(&mut config.metrics.listen, value::unless("off", text)),
        get: |config| value::show_unless("off", &config.metrics.listen),
    },
    Key {
        name: "log.level",
        variable: "LACONICFS_LOG",
        default: "info",
        takes: "LEVEL",
        help: "How much the daemon of a mount logs: error, warn, info, debug or trace; or levels \
               for single rooms, such as laconicfs::tier=debug,warn. Commands log to standard \
               error; for them only the variable counts, and warn is the default.",
        set: |config, text| value::put(&mut config.log.level, value::filter(text)),
        get: |config| config.log.level.clone(),
    },
];
