package broker

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"millrace/devices"
	"millrace/devices/catalog"
	"millrace/ingest"
)

const maxClientID = 256 // bytes

// OnConnect signs a device in. It answers with CONNACK itself where mochi would send none or the wrong reason.
func (h *hook) OnConnect(cl *mqtt.Client, pk packets.Packet) error {
	c := of(cl)
	c.client, c.version = cl, cl.Properties.ProtocolVersion
	h.keepAlive(cl)
	if c.emptyWill {
		cl.Properties.Will.Payload = nil
	}
	code := extended(&pk)
	if code == packets.CodeSuccess {
		code = h.b.signIn(c, pk)
	}
	if code == packets.CodeSuccess {
		code = h.b.admit(c, pk)
	}
	if code == packets.CodeSuccess {
		return nil
	}
	if c.version < 5 {
		switch code { // MQTT 3.1.1, 3.2.2.3
		case packets.ErrBadUsernameOrPassword:
			code = packets.ErrMalformedUsername // mochi sends this as 4, bad user name or password
		case packets.ErrNotAuthorized:
			code = packets.ErrBadUsernameOrPassword // and this as 5, not authorized
		case packets.ErrClientIdentifierNotValid:
		default:
			code = packets.ErrServerUnavailable
		}
	}
	if err := h.b.server.SendConnack(cl, code, false, nil); err != nil {
		return err
	}
	return code
}

// OnConnectAuthenticate is asked after OnConnect.
func (h *hook) OnConnectAuthenticate(cl *mqtt.Client, _ packets.Packet) bool {
	return of(cl).session != nil
}

// keepAlive bounds how long a silent device stays connected. Only MQTT 5 clients can be given another time (3.2.2.3.14).
func (h *hook) keepAlive(cl *mqtt.Client) {
	most := uint16(h.b.conf.MaxKeepAlive / time.Second)
	switch {
	case cl.Properties.ProtocolVersion == 5 && (cl.State.Keepalive == 0 || cl.State.Keepalive > most):
		cl.State.Keepalive, cl.State.ServerKeepalive = most, true
	case cl.State.Keepalive > maxKeepAlive:
		cl.State.Keepalive = maxKeepAlive
	}
}

// signIn finds out which device it is: by its certificate, or by its name and token.
func (b *Broker) signIn(c *conn, pk packets.Packet) packets.Code {
	cl := c.client
	if b.open {
		c.id = cl.ID
		return packets.CodeSuccess
	}
	now, from := time.Now(), address(c.Conn)
	if b.throttle.blocked(from, now) {
		b.refused.Add(1)
		return packets.ErrConnectionRateExceeded
	}
	name := devices.ID(pk.Connect.Username)
	c.device, c.credential = b.byCertificate(c, name)
	if c.device == nil {
		var err error
		if c.device, c.credential, err = b.cat.DeviceByToken(name, string(pk.Connect.Password)); err != nil {
			c.device = nil
			b.authFailures.Add(1)
			b.throttle.failed(from, now)
			if b.cat.Device(name) == nil {
				name = ""
			}
			b.intake.Record(&ingest.Reject{
				Device: name, At: now.UnixMilli(), Kind: "auth", Reason: "wrong password, or a device that may not connect", Err: devices.ErrUnauthorized,
			})
			return packets.ErrBadUsernameOrPassword
		}
	}
	if len(cl.ID) > maxClientID || strings.ContainsAny(cl.ID, "\x00") {
		b.refused.Add(1)
		return packets.ErrClientIdentifierNotValid
	}
	c.id = string(c.device.ID()) + "/" + cl.ID // identifiers of different devices never meet
	c.prefix = "devices/" + string(c.device.ID()) + "/"
	if will := pk.Connect.WillTopic; pk.Connect.WillFlag && (!strings.HasPrefix(will, c.prefix) || strings.ContainsAny(will, "+#")) {
		b.foreign.Add(1)
		b.refused.Add(1)
		_ = c.reject(will, "topic", "the will of a device must be below "+c.prefix, devices.ErrForbidden)
		return packets.ErrNotAuthorized
	}
	if pk.Connect.WillFlag && strings.Count(pk.Connect.WillTopic, "/") >= topicLevels {
		b.refused.Add(1)
		_ = c.reject(pk.Connect.WillTopic, "topic", "the topic of the will has too many levels", devices.ErrInvalid)
		return packets.ErrTopicNameInvalid
	}
	return packets.CodeSuccess
}

// byCertificate signs a device in by the certificate it showed, if that is a credential and the user name doesn't contradict.
func (b *Broker) byCertificate(c *conn, name devices.ID) (*catalog.Device, string) {
	secure, ok := c.Conn.(*tls.Conn)
	if !ok {
		return nil, ""
	}
	certs := secure.ConnectionState().PeerCertificates
	if len(certs) == 0 {
		return nil, ""
	}
	d, credential, err := b.cat.DeviceByFingerprint(sha256.Sum256(certs[0].Raw))
	if err != nil || name != "" && name != d.ID() {
		return nil, ""
	}
	return d, credential
}

// admit gives the connection its session, after any other connection of the same client has ended: mochi's own take-over runs
// beside the old connection and may undo the new one.
func (b *Broker) admit(c *conn, pk packets.Packet) packets.Code {
	b.mu.Lock()
	if !b.serving {
		b.mu.Unlock()
		return packets.ErrServerShuttingDown
	}
	if c.device != nil && b.gone[c.device.ID()] { // its predecessor's sessions are still there
		b.mu.Unlock()
		return packets.ErrServerBusy
	}
	if !b.open && b.sessions[c.id] == nil && b.perDevice[c.device.ID()] >= b.conf.Sessions {
		b.mu.Unlock()
		b.refused.Add(1)
		return packets.ErrQuotaExceeded
	}
	old := b.live[c.id]
	b.live[c.id] = c
	b.mu.Unlock()
	c.client.ID = c.id
	if old != nil {
		old.stop(packets.ErrSessionTakenOver)
		t := time.NewTimer(drainTimeout + time.Second)
		defer t.Stop()
		select {
		case <-old.ended:
		case <-t.C:
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if c.device != nil && !b.cat.CredentialValid(c.device.ID(), c.credential) { // changed while it signed in
		return packets.ErrNotAuthorized
	}
	s := b.sessions[c.id]
	switch {
	case s == nil:
		s = b.newSession(c.id)
	case pk.Connect.Clean:
		s.forget()
		s = b.newSession(c.id)
	}
	c.session = s
	return packets.CodeSuccess
}

// reject records something that was refused, and returns it as an error.
func (c *conn) reject(topic, kind, reason string, err error) error {
	if err == nil {
		err = devices.ErrTooLarge
	}
	r := &ingest.Reject{Device: devices.ID(c.name()), At: time.Now().UnixMilli(), Topic: topic, Reason: reason, Kind: kind, Err: err}
	if !c.b.open {
		c.b.intake.Record(r)
	}
	return r
}

// pause waits; false when the connection is ending.
func (c *conn) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-c.stopped:
		return false
	}
}

func (b *Broker) tlsConfig() (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(b.conf.TLSCert, b.conf.TLSKey)
	if err != nil {
		return nil, fmt.Errorf("mqtt certificate: %w", err)
	}
	conf := &tls.Config{
		Certificates: []tls.Certificate{cert},
		MinVersion:   tls.VersionTLS12,
		ClientAuth:   tls.RequestClientCert, // a fingerprint needs no authority: the handshake proves the key
	}
	if b.conf.TLSClientCA != "" {
		pem, err := os.ReadFile(b.conf.TLSClientCA)
		if err != nil {
			return nil, fmt.Errorf("mqtt client authorities: %w", err)
		}
		conf.ClientCAs = x509.NewCertPool()
		if !conf.ClientCAs.AppendCertsFromPEM(pem) {
			return nil, errors.New("mqtt client authorities: no certificate in " + b.conf.TLSClientCA)
		}
		conf.ClientAuth = tls.VerifyClientCertIfGiven
	}
	return conf, nil
}

// throttle turns addresses away that fail to sign in again and again. It remembers at most maxThrottled addresses; when
// there are more, further ones are not counted until some are forgotten.
type throttle struct {
	limit int

	mu   sync.Mutex
	seen map[string]*failures
}

type failures struct {
	n     int
	until time.Time
}

const maxThrottled = 10000

func (t *throttle) blocked(from string, now time.Time) bool {
	if t.limit <= 0 {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.seen[from]
	return f != nil && now.Before(f.until) && f.n >= t.limit
}

func (t *throttle) failed(from string, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.seen[from]
	if f == nil {
		if len(t.seen) >= maxThrottled {
			return
		}
		f = &failures{}
		t.seen[from] = f
	}
	if !now.Before(f.until) {
		f.n, f.until = 0, now.Add(time.Minute)
	}
	f.n++
}

func (t *throttle) prune(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for from, f := range t.seen {
		if !now.Before(f.until) {
			delete(t.seen, from)
		}
	}
}

func address(c net.Conn) string {
	host, _, err := net.SplitHostPort(c.RemoteAddr().String())
	if err != nil {
		return c.RemoteAddr().String()
	}
	return host
}
