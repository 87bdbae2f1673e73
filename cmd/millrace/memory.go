package main

import (
	"io/fs"
	"log/slog"
	"os"
	"path"
	"runtime/debug"
	"strconv"
	"strings"
)

// gcPercent is how much garbage may gather beside what lives. Little is made and most of what lives has no pointers, so collecting
// twice as often as Go does by itself costs next to nothing, and saves a quarter of the memory.
const gcPercent = 50

// tuneMemory sets how the garbage collector spends memory. GOGC and GOMEMLIMIT in the environment win.
func tuneMemory(limit int64, log *slog.Logger) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	from := "--memory-limit"
	if limit == 0 {
		group := groupMemory(os.DirFS("/"))
		limit, from = group/3*2, "the control group" // the rest is for PostgreSQL, and for what Go doesn't count
	}
	if limit > 0 {
		debug.SetMemoryLimit(limit)
		log.Info("memory is limited", "bytes", limit, "by", from)
	}
}

// groupMemory is the memory that the control groups of this process may use, in bytes; 0 when there is no bound. It reads version 2
// (memory.max) and 1 (memory.limit_in_bytes). In a container the path may be the host's: then its root is ours.
func groupMemory(root fs.FS) (least int64) {
	list, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(list)) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3) // hierarchy:controllers:path
		if len(fields) < 3 {
			continue
		}
		base, file := "sys/fs/cgroup", "memory.max"
		if fields[1] == "memory" {
			base, file = "sys/fs/cgroup/memory", "memory.limit_in_bytes"
		} else if fields[0] != "0" || fields[1] != "" {
			continue
		}
		for at := path.Join("/", fields[2]); ; at = path.Dir(at) {
			text, _ := fs.ReadFile(root, path.Join(base, at, file))
			n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64) // "max" is no number
			if err == nil && n > 0 && n < unboundedGroup && (least == 0 || n < least) {
				least = n
			}
			if at == "/" {
				break
			}
		}
	}
	return least
}

// unboundedGroup is less than what version 1 says for no bound: the largest number of whole pages.
const unboundedGroup = 1 << 62
