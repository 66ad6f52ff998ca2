//! Threads that run only when nobody else wants the machine.

/// Gives the calling thread the lowest priority for processor and disk. Where
/// the system does not allow it, nothing changes: it is a courtesy.
pub fn be_idle() {
    /// `IOPRIO_CLASS_IDLE` in the class bits of an I/O priority, and "this
    /// thread" (`linux/ioprio.h`).
    const IO_IDLE: libc::c_long = 3 << 13;
    const WHO_PROCESS: libc::c_long = 1;
    let param = libc::sched_param { sched_priority: 0 };
    // SAFETY: `param` outlives the call, which only reads it; 0 names the
    // calling thread.
    let scheduled = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &param) };
    // SAFETY: the call takes three numbers and no memory.
    let ranked = unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, IO_IDLE) };
    if scheduled != 0 || ranked != 0 {
        log::debug!("background threads keep their ordinary priority");
    }
}
