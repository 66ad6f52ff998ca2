# Installs laconicfs. `make install` puts it under /usr/local; packagers set PREFIX and DESTDIR.

PREFIX  ?= /usr/local
DESTDIR ?=
# mount(8) looks for its helpers here and nowhere else.
SBINDIR ?= /sbin
UNITDIR ?= $(PREFIX)/lib/systemd/system
USERUNITDIR ?= $(PREFIX)/lib/systemd/user
SHARE   ?= $(PREFIX)/share
MANDIR  ?= $(SHARE)/man
DOCDIR  ?= $(SHARE)/doc/laconicfs
BASHDIR ?= $(SHARE)/bash-completion/completions
ZSHDIR  ?= $(SHARE)/zsh/site-functions
FISHDIR ?= $(SHARE)/fish/vendor_completions.d
CARGO   ?= cargo

PROGRAM ?= target/release/laconicfs

# The names that mount(8) and umount(8) look for; the program tells them apart.
HELPERS = mount.laconicfs mount.fuse.laconicfs umount.fuse.laconicfs
UNIT = systemd/laconicfs@.service
USERUNIT = systemd/user/laconicfs@.service

# What `make deb` packs: an installation below this folder, and nothing else.
STAGE = target/debian/root

.PHONY: all install uninstall deb check

all:
	$(CARGO) build --release --locked

# Not a target that builds: `sudo make install` must not compile as root.
install:
	@test -x $(PROGRAM) || { echo "run make first: $(PROGRAM) is missing" >&2; exit 1; }
	install -D -m 755 $(PROGRAM) $(DESTDIR)$(PREFIX)/bin/laconicfs
	install -d $(DESTDIR)$(SBINDIR) $(DESTDIR)$(UNITDIR) $(DESTDIR)$(USERUNITDIR)
	for helper in $(HELPERS); do ln -sf $(PREFIX)/bin/laconicfs $(DESTDIR)$(SBINDIR)/$$helper; done
	sed 's|/usr/local/bin/laconicfs|$(PREFIX)/bin/laconicfs|' '$(UNIT)' > '$(DESTDIR)$(UNITDIR)/$(UNIT:systemd/%=%)'
	sed 's|/usr/local/bin/laconicfs|$(PREFIX)/bin/laconicfs|' '$(USERUNIT)' > '$(DESTDIR)$(USERUNITDIR)/$(USERUNIT:systemd/user/%=%)'
	chmod 644 '$(DESTDIR)$(UNITDIR)/$(UNIT:systemd/%=%)' '$(DESTDIR)$(USERUNITDIR)/$(USERUNIT:systemd/user/%=%)'
# The program writes its own pages and completions.
	install -d $(DESTDIR)$(MANDIR)/man1 $(DESTDIR)$(MANDIR)/man5 $(DESTDIR)$(MANDIR)/man8
	pages=$$(mktemp -d) && $(PROGRAM) manual $$pages \
		&& for section in 1 5 8; do install -m 644 $$pages/*.$$section $(DESTDIR)$(MANDIR)/man$$section || exit; done \
		&& rm -r $$pages
	install -d $(DESTDIR)$(BASHDIR) $(DESTDIR)$(ZSHDIR) $(DESTDIR)$(FISHDIR)
	$(PROGRAM) completions bash > $(DESTDIR)$(BASHDIR)/laconicfs
	$(PROGRAM) completions zsh > $(DESTDIR)$(ZSHDIR)/_laconicfs
	$(PROGRAM) completions fish > $(DESTDIR)$(FISHDIR)/laconicfs.fish
	install -d $(DESTDIR)$(DOCDIR)
	install -m 644 README.md docs/*.md docs/*.json $(DESTDIR)$(DOCDIR)

uninstall:
	rm -f $(DESTDIR)$(PREFIX)/bin/laconicfs $(HELPERS:%=$(DESTDIR)$(SBINDIR)/%)
	rm -f '$(DESTDIR)$(UNITDIR)/$(UNIT:systemd/%=%)' '$(DESTDIR)$(USERUNITDIR)/$(USERUNIT:systemd/user/%=%)'
	rm -f $(DESTDIR)$(MANDIR)/man1/laconicfs.1 $(DESTDIR)$(MANDIR)/man1/laconicfs-*.1
	rm -f $(DESTDIR)$(MANDIR)/man5/laconicfs.toml.5 $(DESTDIR)$(MANDIR)/man8/mount.laconicfs.8
	rm -f $(DESTDIR)$(BASHDIR)/laconicfs $(DESTDIR)$(ZSHDIR)/_laconicfs $(DESTDIR)$(FISHDIR)/laconicfs.fish
	rm -rf $(DESTDIR)$(DOCDIR)

# `cargo install cargo-deb` first. PROGRAM names one that is built already.
deb:
	@test -x $(PROGRAM) || $(MAKE) all
	rm -rf $(STAGE)
	$(MAKE) -s install DESTDIR=$(STAGE) PREFIX=/usr SBINDIR=/usr/sbin
	install -d $(STAGE)/etc
	$(PROGRAM) config example > $(STAGE)/etc/laconicfs.toml
	$(CARGO) deb --no-build --no-strip

check:
	.ci/run
