package local

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// OldestMajor is the oldest major version that Millrace works with.
const OldestMajor = 14

// usual are folders of server binaries as the packagers lay them out.
var usual = []string{
	"/usr/lib/postgresql/*/bin",         // Debian, Ubuntu
	"/usr/pgsql-*/bin",                  // postgresql.org on Red Hat and relatives
	"/usr/libexec/postgresql*",          // Alpine
	"/usr/lib/postgresql*/bin",          // SUSE
	"/usr/local/pgsql/bin",              // from source
	"/opt/homebrew/opt/postgresql*/bin", // Homebrew
	"/usr/local/opt/postgresql*/bin",
}

// find returns the folder of initdb and postgres, and their version: of the wanted major version if there is a cluster already,
// else the newest.
func find(ctx context.Context, dir, wanted string) (bin, version string, err error) {
	var dirs []string
	if dir != "" {
		dirs = []string{dir}
	} else {
		if out, err := exec.CommandContext(ctx, "pg_config", "--bindir").Output(); err == nil {
			dirs = append(dirs, strings.TrimSpace(string(out)))
		}
		for _, program := range []string{"postgres", "initdb"} {
			if path, err := exec.LookPath(program); err == nil {
				if real, err := filepath.EvalSymlinks(path); err == nil {
					dirs = append(dirs, filepath.Dir(real))
				}
			}
		}
		for _, pattern := range usual {
			more, _ := filepath.Glob(pattern)
			dirs = append(dirs, more...)
		}
	}
	best := 0
	var seen []string
	for _, d := range dirs {
		if slices.Contains(seen, d) {
			continue
		}
		seen = append(seen, d)
		if _, err := os.Stat(filepath.Join(d, "initdb")); err != nil {
			continue
		}
		out, err := exec.CommandContext(ctx, filepath.Join(d, "postgres"), "--version").Output()
		if err != nil {
			continue
		}
		v, major := parseVersion(string(out))
		if strconv.Itoa(major) == wanted {
			return d, v, nil
		}
		if major > best {
			best, bin, version = major, d, v
		}
	}
	switch {
	case ctx.Err() != nil:
		return "", "", ctx.Err()
	case best == 0:
		return "", "", fmt.Errorf("%w: looked in %s; install the package (Debian: postgresql), name the folder of its initdb, or give --database-url",
			ErrNoBinaries, strings.Join(seen, ", "))
	case wanted != "":
		return "", "", fmt.Errorf("%w: it was made by PostgreSQL %s, and %s has %s. Either install PostgreSQL %s as well (Debian: postgresql-%s); "+
			"or upgrade the cluster with pg_upgrade; or move the directory away to start empty", ErrVersion, wanted, bin, version, wanted, wanted)
	case best < OldestMajor:
		return "", "", fmt.Errorf("%w: %s has %s, at least %d is needed", ErrVersion, bin, version, OldestMajor)
	}
	return bin, version, nil
}

// parseVersion reads "postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)", also of betas ("17beta1").
func parseVersion(out string) (version string, major int) {
	_, after, _ := strings.Cut(out, "(PostgreSQL) ")
	version, _, _ = strings.Cut(strings.TrimSpace(after), " ")
	digits := strings.IndexFunc(version, func(r rune) bool { return r < '0' || r > '9' })
	if digits < 0 {
		digits = len(version)
	}
	major, _ = strconv.Atoi(version[:digits])
	return version, major
}
