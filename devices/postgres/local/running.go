package local

import (
	"os"
	"path/filepath"
	"strings"
)

// Running returns how to connect to the private server in a directory, as Config.Dir, that another process runs; ok is false when
// none does. It changes nothing.
func Running(dir string) (url string, ok bool) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", false
	}
	s := &Server{dir: dir}
	pid, ready := s.readPIDFile()
	if !ready || !s.isPostmaster(pid) {
		return "", false
	}
	content, err := os.ReadFile(filepath.Join(s.cluster(), "postmaster.pid"))
	if err != nil {
		return "", false
	}
	lines := strings.Split(string(content), "\n")
	if len(lines) < 5 || lines[4] == "" {
		return "", false
	}
	s.socket = strings.TrimSpace(lines[4]) // the fifth line is the directory of the first socket
	return s.URL(), true
}
