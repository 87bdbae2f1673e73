package socket

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// tcpHeard asks the kernel when the peer's TCP last acknowledged something. A peer whose program reads nothing still answers
// the probes of its closed window; one that is gone does not.
func tcpHeard(c net.Conn) (ago time.Duration, ok bool) {
	tcp := tcpOf(c)
	if tcp == nil {
		return 0, false
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return 0, false
	}
	err = raw.Control(func(fd uintptr) {
		var info *unix.TCPInfo
		if info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			ago, ok = time.Duration(info.Last_ack_recv)*time.Millisecond, true
		}
	})
	return ago, ok && err == nil
}
