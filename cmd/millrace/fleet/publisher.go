package fleet

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/eclipse/paho.golang/autopaho"
	"github.com/eclipse/paho.golang/paho"

	"millrace/devices"
)

// Publisher sends what a plant measures to a broker over MQTT 5, each device on a connection of its own with its own token.
type Publisher struct {
	Plant  *Plant
	Broker *url.URL // mqtt, mqtts, ws or wss
	TLS    *tls.Config
	Keys   *Keys
	Site   Site // asked for a new token when the broker refuses one; nil: nobody is asked
	// User and Password, if set, are what every device shows in place of its id and token: for somebody's own broker.
	User, Password string
	Log            *slog.Logger

	sent, lost atomic.Uint64
	connected  atomic.Int64
}

// Stats are the messages sent, those dropped because a connection was down or slow, and the connections up now.
func (p *Publisher) Stats() (sent, lost uint64, connected int) {
	return p.sent.Load(), p.lost.Load(), int(p.connected.Load())
}

// Run publishes until ctx ends.
func (p *Publisher) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()
	links := make(map[*Unit]*link, len(p.Plant.Units))
	for _, u := range p.Plant.Units {
		l := &link{p: p, unit: u, out: make(chan Message, 100)}
		links[u] = l
		group.Go(func() { l.run(ctx) })
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-timer.C:
			next := p.Plant.Advance(now, func(m Message) {
				select {
				case links[m.Unit].out <- m:
				default:
					p.lost.Add(1) // as a device without a buffer
				}
			})
			// At least 5 ms together, which costs a fraction of waking up for each.
			timer.Reset(max(time.Until(next), 5*time.Millisecond))
		}
	}
}

// link is one device's connection.
type link struct {
	p      *Publisher
	unit   *Unit
	out    chan Message
	asked  atomic.Int64 // Unix seconds when a new token was last asked for
	up     atomic.Bool
	warned atomic.Bool
}

func (l *link) run(ctx context.Context) {
	p := l.p
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	refused := make(chan struct{}, 1)
	conf := autopaho.ClientConfig{
		ServerUrls:                    []*url.URL{p.Broker},
		TlsCfg:                        p.TLS,
		KeepAlive:                     60,
		CleanStartOnInitialConnection: true,
		ConnectTimeout:                10 * time.Second,
		ReconnectBackoff: func(n int) time.Duration {
			return min(200*time.Millisecond<<min(n, 6), 10*time.Second)
		},
		ConnectPacketBuilder: func(c *paho.Connect, _ *url.URL) (*paho.Connect, error) {
			user, password := p.User, p.Password
			if user == "" {
				user, password = string(l.unit.ID), p.Keys.Token(l.unit.ID)
			}
			if user != "" && password != "" {
				c.UsernameFlag, c.PasswordFlag, c.Username, c.Password = true, true, user, []byte(password)
			}
			return c, nil
		},
		OnConnectionUp: func(*autopaho.ConnectionManager, *paho.Connack) {
			l.warned.Store(false)
			if !l.up.Swap(true) {
				p.connected.Add(1)
			}
		},
		OnConnectionDown: func() bool {
			if l.up.Swap(false) {
				p.connected.Add(-1)
			}
			return true
		},
		OnConnectError: func(err error) {
			if ctx.Err() != nil {
				return
			}
			if !l.warned.Swap(true) {
				p.Log.Warn("simulated device not connected", "device", l.unit.ID, "err", err)
			}
			if deny, ok := errors.AsType[*autopaho.ConnackError](err); ok && (deny.ReasonCode == 0x86 || deny.ReasonCode == 0x87) {
				select {
				case refused <- struct{}{}:
				default:
				}
			}
		},
		ClientConfig: paho.ClientConfig{ClientID: "sim-" + string(l.unit.ID)},
	}
	cm, err := autopaho.NewConnection(ctx, conf)
	if err != nil {
		p.Log.Error("simulated device", "device", l.unit.ID, "err", err)
		return
	}
	defer func() {
		cancel()
		<-cm.Done()
		if l.up.Swap(false) {
			p.connected.Add(-1)
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return
		case <-refused:
			l.renew(ctx)
		case m := <-l.out:
			if m.Last {
				return
			}
			l.send(ctx, cm, m)
		}
	}
}

func (l *link) send(ctx context.Context, cm *autopaho.ConnectionManager, m Message) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if _, err := cm.Publish(ctx, &paho.Publish{Topic: m.Topic, Payload: m.Payload, QoS: m.QoS}); err != nil {
		l.p.lost.Add(1)
		return
	}
	l.p.sent.Add(1)
}

// renew asks for a new token, at most once in ten seconds.
func (l *link) renew(ctx context.Context) {
	now := time.Now().Unix()
	if l.p.Site == nil || l.p.User != "" || now-l.asked.Load() < 10 {
		return
	}
	l.asked.Store(now)
	token, err := l.p.Site.CreateCredential(ctx, l.unit.ID)
	if err != nil {
		// Gone or disabled by somebody, who meant it: the device stays out.
		if !errors.Is(err, devices.ErrNotFound) && ctx.Err() == nil {
			l.p.Log.Warn("no new token for a simulated device", "device", l.unit.ID, "err", err)
		}
		return
	}
	l.p.Keys.Set(l.unit.ID, token)
	if err := l.p.Keys.Save(); err != nil {
		l.p.Log.Warn("tokens of the simulated fleet not kept", "err", err)
	}
}
