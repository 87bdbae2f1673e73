package local

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// process is one postmaster, our child.
type process struct {
	pid  int
	done chan struct{} // closed when it has ended
	err  error         // how; read after done
}

// startProcess starts the command on a thread of its own that lives as long as the child, because Pdeathsig goes by the
// thread that forked, not by the process.
func startProcess(cmd *exec.Cmd) (*process, error) {
	p := &process{done: make(chan struct{})}
	started := make(chan error)
	go p.run(cmd, started)
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

func (p *process) run(cmd *exec.Cmd, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		started <- err
		return
	}
	p.pid = cmd.Process.Pid
	started <- nil
	p.err = cmd.Wait()
	if p.err == nil {
		p.err = fmt.Errorf("exit status 0")
	}
	close(p.done)
}

// stop ends the postmaster: fast, then at once, then hard.
func (p *process) stop() error {
	return stopPID(p.pid, p.done)
}

// stopPID ends a postmaster that closes done when it is gone.
func stopPID(pid int, done <-chan struct{}) error {
	for _, step := range []struct {
		sig  syscall.Signal
		wait time.Duration
	}{{syscall.SIGINT, stopTimeout}, {syscall.SIGQUIT, quitTimeout}, {syscall.SIGKILL, quitTimeout}} {
		select {
		case <-done: // its number may be somebody else's by now
			return nil
		default:
		}
		if err := syscall.Kill(pid, step.sig); err != nil && err != syscall.ESRCH {
			return fmt.Errorf("stop postgres %d: %w", pid, os.NewSyscallError("kill", err))
		}
		select {
		case <-done:
			return nil
		case <-time.After(step.wait):
		}
	}
	return fmt.Errorf("postgres %d does not end", pid)
}
