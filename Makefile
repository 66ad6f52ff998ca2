# Installs laconicfs. `make install` puts it under /usr/local; packagers set PREFIX and DESTDIR.

PREFIX  ?= /usr/local
DESTDIR ?=
# mount(8) looks for its helpers here and nowhere else.
SBINDIR ?= /sbin
UNITDIR ?= $(PREFIX)/lib/systemd/system
DOCDIR  ?= $(PREFIX)/share/doc/laconicfs
CARGO   ?= cargo

PROGRAM ?= target/release/laconicfs

# What `make deb` packs: an installation below this folder, and nothing else.
STAGE = target/debian/root

.PHONY: all install uninstall deb check

all:
	$(CARGO) build --release --locked

# Not a target that builds: `sudo make install` must not compile as root.
install:
	@test -x $(PROGRAM) || { echo "run make first: $(PROGRAM) is missing" >&2; exit 1; }
	install -D -m 755 $(PROGRAM) $(DESTDIR)$(PREFIX)/bin/laconicfs
	install -d $(DESTDIR)$(SBINDIR) $(DESTDIR)$(UNITDIR)
	ln -sf $(PREFIX)/bin/laconicfs $(DESTDIR)$(SBINDIR)/mount.laconicfs
	sed 's|/usr/local/bin/laconicfs|$(PREFIX)/bin/laconicfs|' 'systemd/laconicfs@.service' > '$(DESTDIR)$(UNITDIR)/laconicfs@.service'
	chmod 644 '$(DESTDIR)$(UNITDIR)/laconicfs@.service'
	install -d $(DESTDIR)$(DOCDIR)
	install -m 644 README.md docs/*.md docs/*.json $(DESTDIR)$(DOCDIR)

uninstall:
	rm -f $(DESTDIR)$(PREFIX)/bin/laconicfs $(DESTDIR)$(SBINDIR)/mount.laconicfs
	rm -f '$(DESTDIR)$(UNITDIR)/laconicfs@.service'
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
