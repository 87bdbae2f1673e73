package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// socket is the client's side of a WebSocket (RFC 6455), just what the live protocol needs: no extensions, no fragments from us.
type socket struct {
	net.Conn
	r   *bufio.Reader
	buf []byte // the message last read
}

const (
	opText   = 1
	opBinary = 2
	opClose  = 8
	opPing   = 9
	opPong   = 10
)

// dialSocket connects to a ws:// address.
func dialSocket(ctx context.Context, address, token, subprotocol string) (*socket, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "ws" {
		return nil, fmt.Errorf("%s: only plain http servers are supported", address)
	}
	host := u.Host
	if u.Port() == "" {
		host = net.JoinHostPort(u.Hostname(), "80")
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", host)
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: bWlsbHJhY2UgbG9hZGdlbg==\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: %s\r\nAuthorization: Bearer %s\r\n\r\n", u.Path, u.Host, subprotocol, token)
	s := &socket{Conn: conn, r: bufio.NewReaderSize(conn, 16<<10)}
	res, err := http.ReadResponse(s.r, nil)
	if err != nil {
		conn.Close()
		return nil, err
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		body, _ := io.ReadAll(io.LimitReader(res.Body, 500))
		conn.Close()
		return nil, fmt.Errorf("%s: %s: %s", address, res.Status, strings.TrimSpace(string(body)))
	}
	_ = conn.SetDeadline(time.Time{})
	return s, nil
}

// read returns the next data message; it is valid until the next call. Pings are answered.
func (s *socket) read() (op byte, message []byte, err error) {
	s.buf = s.buf[:0]
	for {
		var head [10]byte
		if _, err := io.ReadFull(s.r, head[:2]); err != nil {
			return 0, nil, err
		}
		n := uint64(head[1] & 0x7f)
		switch n {
		case 126:
			_, err = io.ReadFull(s.r, head[2:4])
			n = uint64(binary.BigEndian.Uint16(head[2:]))
		case 127:
			_, err = io.ReadFull(s.r, head[2:10])
			n = binary.BigEndian.Uint64(head[2:])
		}
		if err != nil {
			return 0, nil, err
		}
		if n > 64<<20 {
			return 0, nil, fmt.Errorf("message of %d bytes", n)
		}
		if kind := head[0] & 0x0f; kind >= opClose {
			var control [125]byte
			if n > 125 {
				return 0, nil, errors.New("control frame is too long")
			}
			if _, err := io.ReadFull(s.r, control[:n]); err != nil {
				return 0, nil, err
			}
			switch {
			case kind == opPing:
				err = s.write(opPong, control[:n])
			case kind == opClose && n >= 2:
				err = fmt.Errorf("closed by the server with %d %s", binary.BigEndian.Uint16(control[:]), control[2:n])
			case kind == opClose:
				err = io.EOF
			}
			if err != nil {
				return 0, nil, err
			}
			continue
		} else if kind != 0 {
			op = kind
		}
		at := len(s.buf)
		if uint64(cap(s.buf)-at) < n {
			s.buf = append(make([]byte, 0, uint64(at)+n+n/4), s.buf...)
		}
		s.buf = s.buf[:uint64(at)+n]
		if _, err := io.ReadFull(s.r, s.buf[at:]); err != nil {
			return 0, nil, err
		}
		if head[0]&0x80 != 0 {
			return op, s.buf, nil
		}
	}
}

// write sends a message in one write. Its mask is zero, which costs nothing and is as good as any against a server that is no proxy.
func (s *socket) write(op byte, p []byte) error {
	b := make([]byte, 0, len(p)+14)
	b = append(b, 0x80|op)
	switch {
	case len(p) < 126:
		b = append(b, 0x80|byte(len(p)))
	case len(p) < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(len(p)))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(len(p)))
	}
	b = append(append(b, 0, 0, 0, 0), p...)
	_, err := s.Conn.Write(b)
	return err
}
