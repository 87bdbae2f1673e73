package broker

import (
	"errors"
	"io"
	"net"
	"time"

	"github.com/gofiber/contrib/websocket"
	"github.com/gofiber/fiber/v2"
)

// Register serves MQTT over WebSocket at /mqtt (MQTT 5.0, 6). Pages of any origin may connect: a device's token is asked for,
// cookies mean nothing here.
func (b *Broker) Register(r fiber.Router) {
	upgrade := websocket.New(func(ws *websocket.Conn) {
		_ = b.Serve(&wsConn{Conn: ws}) // how a device left is counted, not logged
	}, websocket.Config{Subprotocols: []string{"mqtt"}, HandshakeTimeout: b.conf.ConnectTimeout})
	r.Get("/mqtt", func(c *fiber.Ctx) error {
		if !websocket.IsWebSocketUpgrade(c) {
			return fiber.ErrUpgradeRequired
		}
		return upgrade(c)
	})
}

var errText = errors.New("mqtt: text message on a WebSocket") // MQTT 5.0, 6.0.0-1

// wsConn makes a byte stream of the binary messages of a WebSocket. Packets and messages need not coincide.
type wsConn struct {
	*websocket.Conn
	message io.Reader // what is left of the current message; nil between messages
}

func (c *wsConn) Read(p []byte) (int, error) {
	for {
		if c.message == nil {
			kind, r, err := c.NextReader()
			if err != nil {
				return 0, err
			}
			if kind != websocket.BinaryMessage {
				return 0, errText
			}
			c.message = r
		}
		n, err := c.message.Read(p)
		if err == io.EOF {
			c.message, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

func (c *wsConn) Write(p []byte) (int, error) {
	if err := c.WriteMessage(websocket.BinaryMessage, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// SetDeadline is part of net.Conn.
func (c *wsConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

var _ net.Conn = (*wsConn)(nil)
