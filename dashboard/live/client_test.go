package live_test

import (
	"net"
	"net/http"
	"syscall"
)

// smallReceiveBuffer makes a client's window small, so that a viewer which reads nothing holds the server up soon.
func smallReceiveBuffer(_, _ string, c syscall.RawConn) (err error) {
	if failed := c.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4096) }); failed != nil {
		return failed
	}
	return err
}

func clientOver(d *net.Dialer) *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: d.DialContext, DisableKeepAlives: false}}
}
