// Package event tells the servers of a hub what its clients do: event handlers, which are webhooks or servers behind the tunnel and may
// answer, and event listeners, which get copies. Requests are CloudEvents 1.0 in binary mode, as Azure Web PubSub sends them.
//
// Connect and User ask and wait. Connected, Disconnected, Joined and Left queue and return; Run delivers what they queue, in order for
// each connection.
package event

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"millrace/devices/hubs"
)

// Config of event handlers. What is zero is as the defaults say.
type Config struct {
	Origin       string          `help:"Host name that webhooks are told as WebHook-Request-Origin, without a port; that of the endpoint in connection strings."`
	Timeout      time.Duration   `default:"100s" help:"How long a webhook may take to answer."`
	Attempts     int             `default:"4" help:"How often a webhook is asked that fails, the first time included."`
	Pauses       []time.Duration `default:"1s,3s,5s" help:"Pauses between them."`
	Calls        int             `default:"256" help:"Calls to one webhook of a hub at a time, and as many more for notifications; others wait."`
	Keep         time.Duration   `default:"15m" help:"How long notifications to webhooks are retried before they become dead letters."`
	QueueEvents  int             `default:"20000" help:"Notifications of a hub that may wait for its webhooks, and as many copies for its listeners."`
	QueueBytes   int             `default:"16777216" help:"Bytes of notifications, and of copies, of a hub that may wait."`
	ShutdownTime time.Duration   `default:"5s" help:"How long webhooks are given at the end for what still waits."`
}

func (c Config) withDefaults() Config {
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	num := func(n *int, v int) {
		if *n <= 0 {
			*n = v
		}
	}
	def(&c.Timeout, 100*time.Second)
	num(&c.Attempts, 4)
	if c.Pauses == nil {
		c.Pauses = []time.Duration{time.Second, 3 * time.Second, 5 * time.Second}
	}
	num(&c.Calls, 256)
	def(&c.Keep, 15*time.Minute)
	num(&c.QueueEvents, 20000)
	num(&c.QueueBytes, 16<<20)
	def(&c.ShutdownTime, 5*time.Second)
	if c.Origin == "" {
		c.Origin = "localhost"
	}
	if host, _, err := net.SplitHostPort(c.Origin); err == nil {
		c.Origin = host
	}
	return c
}

// A Source has the settings of hubs and the access keys that sign. It is asked for each event and must not block.
type Source interface {
	Hub(name string) hubs.Settings
	Keys() hubs.Keys
}

// DeadLetters keeps what no handler took.
type DeadLetters interface {
	AddLetter(ctx context.Context, l hubs.Letter) error
}

// Publish publishes to a subject of NATS, and returns when the message is kept.
type Publish func(ctx context.Context, subject string, headers map[string][]string, body []byte) error

// A Tunnel brings requests to servers that have connected to us. The URL of req has the scheme tunnel and no host.
type Tunnel interface {
	Do(ctx context.Context, hub, connection string, req *http.Request) (*http.Response, error)
}

// A Dispatcher delivers events.
type Dispatcher struct {
	config  Config
	source  Source
	dead    DeadLetters // may be nil
	publish Publish     // may be nil
	tunnel  Tunnel      // may be nil
	log     *slog.Logger
	client  *http.Client
	now     func() time.Time

	gates   gates
	checks  checks
	notices *queue
	copies  *queue
	letters chan hubs.Letter

	sent, failed, retried, buried, lost, copied, copiesFailed atomic.Uint64
	took, open                                                atomic.Int64

	mu       sync.Mutex
	said     map[string]time.Time // when each complaint was last logged
	finished bool                 // nobody takes letters any more
}

// New returns a Dispatcher. dead, publish and tunnel may be nil: then notifications that fail are only counted, and handlers and
// listeners that need the others fail.
func New(c Config, s Source, dead DeadLetters, publish Publish, tunnel Tunnel, log *slog.Logger) *Dispatcher {
	c = c.withDefaults()
	d := &Dispatcher{
		config: c, source: s, dead: dead, publish: publish, tunnel: tunnel, log: log, now: time.Now,
		said: map[string]time.Time{}, letters: make(chan hubs.Letter, 256),
		client: &http.Client{
			Transport: &http.Transport{
				Proxy:                  http.ProxyFromEnvironment,
				DialContext:            (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
				TLSHandshakeTimeout:    10 * time.Second,
				ForceAttemptHTTP2:      true,
				MaxIdleConns:           1024,
				MaxIdleConnsPerHost:    c.Calls,
				IdleConnTimeout:        90 * time.Second,
				MaxResponseHeaderBytes: 64 << 10,
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
	d.checks.refresh = make(chan check, 64)
	d.notices = &queue{d: d, send: d.sendNotice, target: d.noticeTarget, giveUp: d.deadNotice, keep: c.Keep}
	d.copies = &queue{d: d, send: d.sendCopy, target: copyTarget, giveUp: d.deadCopy, keep: time.Minute}
	d.notices.init()
	d.copies.init()
	return d
}

// Run delivers notifications and copies, and keeps handshakes fresh, until ctx ends. What waits then is tried once more, for
// Config.ShutdownTime at most, and becomes dead letters if nobody takes it. So whoever makes notifications must have ended before.
func (d *Dispatcher) Run(ctx context.Context) error {
	var wg, queues sync.WaitGroup
	hold, stop := context.WithCancel(context.WithoutCancel(ctx)) // for letters, which go on after ctx for as long again as notifications
	defer stop()
	end := make(chan struct{})
	defer close(end)
	context.AfterFunc(ctx, func() {
		t := time.NewTimer(2 * d.config.ShutdownTime)
		defer t.Stop()
		select {
		case <-t.C:
			stop()
		case <-end:
		}
	})
	wg.Go(func() { d.refreshLoop(ctx) })
	wg.Go(func() { d.letterLoop(hold) })
	queues.Go(func() { d.notices.run(ctx) })
	queues.Go(func() { d.copies.run(ctx) })
	queues.Wait()
	d.mu.Lock()
	d.finished = true
	close(d.letters)
	d.mu.Unlock()
	wg.Wait()
	d.client.CloseIdleConnections()
	return nil
}

// Stats returns counts for metrics.
func (d *Dispatcher) Stats() Stats {
	s := Stats{
		Sent: d.sent.Load(), Failed: d.failed.Load(), Retried: d.retried.Load(), Dead: d.buried.Load(), Lost: d.lost.Load(),
		Copied: d.copied.Load(), CopiesFailed: d.copiesFailed.Load(), Took: time.Duration(d.took.Load()), Open: int(d.open.Load()),
	}
	n, b := d.notices.waiting()
	m, c := d.copies.waiting()
	s.Waiting, s.WaitingBytes = n+m, b+c
	return s
}

// complain logs, but the same of one hub and URL once a minute.
func (d *Dispatcher) complain(msg, hub, url string, err error) {
	now, key := d.now(), msg+"\x00"+hub+"\x00"+url
	d.mu.Lock()
	last, ok := d.said[key]
	due := !ok || now.Sub(last) >= time.Minute
	if due {
		if len(d.said) >= 1000 {
			clear(d.said)
		}
		d.said[key] = now
	}
	d.mu.Unlock()
	if due {
		d.log.Warn(msg, "hub", hub, "url", withoutQuery(url), "err", err)
	}
}
