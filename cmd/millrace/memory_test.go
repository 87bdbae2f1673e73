package main

import (
	"testing"
	"testing/fstest"
)

func TestGroupMemory(t *testing.T) {
	f := func(want int64, files ...string) {
		t.Helper()
		root := fstest.MapFS{}
		for i := 0; i < len(files); i += 2 {
			root[files[i]] = &fstest.MapFile{Data: []byte(files[i+1] + "\n")}
		}
		if got := groupMemory(root); got != want {
			t.Errorf("%q: %d, want %d", files, got, want)
		}
	}
	const list = "proc/self/cgroup"
	f(0)
	f(0, list, "nonsense")
	f(0, list, "0::/", "sys/fs/cgroup/memory.max", "max")
	f(512<<20, list, "0::/", "sys/fs/cgroup/memory.max", "536870912") // a container
	f(1000, list, "0::/a/b", "sys/fs/cgroup/a/b/memory.max", "max", "sys/fs/cgroup/a/memory.max", "1000")
	f(900, list, "0::/a/b", "sys/fs/cgroup/a/b/memory.max", "900", "sys/fs/cgroup/a/memory.max", "1000")
	const one = "5:cpu,cpuacct:/\n4:memory:/docker/x\n0::/"
	f(0, list, one, "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712", "sys/fs/cgroup/cpu/docker/x/memory.max", "5")
	f(700, list, one, "sys/fs/cgroup/memory/memory.limit_in_bytes", "700") // a container that is told the host's path
	f(600, list, one, "sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes", "600")
}
