//go:build !linux

package socket

import (
	"net"
	"time"
)

// tcpHeard is not known here: a peer that sends neither message nor pong counts as dead.
func tcpHeard(net.Conn) (ago time.Duration, ok bool) { return 0, false }
