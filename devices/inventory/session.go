package inventory

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"millrace/devices"
)

// Times of sessions.
const (
	SessionFor   = 14 * 24 * time.Hour
	sessionFresh = 5 * time.Second  // how long a session is believed without asking the store
	sessionKept  = 15 * time.Minute // how long when the store does not answer
)

// SignIn returns the cookie's secret. Wrong credentials: ErrUnauthorized, audited, throttled per e-mail and IP (ErrRate). It takes
// as long for an e-mail nobody has as for a wrong password.
func (v *Inventory) SignIn(ctx context.Context, email, password, ip, agent string) (string, devices.Session, error) {
	email = normal(email)
	refund, err := v.throttle.take(time.Now(), email, ip)
	if err != nil {
		return "", devices.Session{}, err
	}
	u, err := v.store.UserByEmail(ctx, email)
	if err != nil && !errors.Is(err, devices.ErrNotFound) {
		refund()
		return "", devices.Session{}, err
	}
	ok, err := v.checkPassword(ctx, u.PasswordHash, password)
	if err != nil {
		refund()
		return "", devices.Session{}, err
	}
	if !ok || u.Disabled {
		by := devices.Actor{Kind: devices.UserPrincipal, ID: u.ID, Name: clip(email, 254), IP: ip}
		if err := v.store.AppendAudit(ctx, by, "session.refuse", clip(email, 254), nil); err != nil {
			return "", devices.Session{}, err
		}
		return "", devices.Session{}, fmt.Errorf("sign in: %w", devices.ErrUnauthorized)
	}
	refund()
	secret, now := random(32), time.Now()
	s := devices.Session{Hash: hash(secret), User: u.ID, CSRF: random(32), CreatedAt: now, Expires: now.Add(SessionFor), IP: ip, Agent: clip(agent, 300)}
	if err := v.store.CreateSession(ctx, devices.Actor{Kind: devices.UserPrincipal, ID: u.ID, Name: u.Email, IP: ip}, s); err != nil {
		return "", devices.Session{}, err
	}
	return secret, s, nil
}

// SignOut ends a session; one that is over already is no error.
func (v *Inventory) SignOut(ctx context.Context, secret string) error {
	v.sessions.drop(hash(secret))
	err := v.store.DeleteSession(ctx, hash(secret))
	v.sessions.drop(hash(secret)) // a request meanwhile may have read it again
	if errors.Is(err, devices.ErrNotFound) {
		return nil
	}
	return err
}

// Session looks a cookie up; cached some seconds, and longer while the store does not answer. The rights always come from the
// catalog. ErrUnauthorized when it is over, or the user disabled or gone.
func (v *Inventory) Session(ctx context.Context, secret string) (devices.Session, *devices.Principal, error) {
	key, now := hash(secret), time.Now()
	s, read := v.sessions.get(key)
	if age := now.Sub(read); age > sessionFresh {
		generation := v.sessions.generation()
		fresh, err := v.store.Session(ctx, key)
		switch {
		case err == nil:
			s = fresh
			v.sessions.put(s, now, generation)
		case errors.Is(err, devices.ErrNotFound):
			v.sessions.drop(key)
			return devices.Session{}, nil, fmt.Errorf("session: %w", devices.ErrUnauthorized)
		case !errors.Is(err, devices.ErrUnavailable) || age > sessionKept:
			return devices.Session{}, nil, err
		}
	}
	p := v.catalog.Principal(devices.UserPrincipal, s.User)
	if p == nil || !now.Before(s.Expires) {
		return devices.Session{}, nil, fmt.Errorf("session: %w", devices.ErrUnauthorized)
	}
	return s, p, nil
}

// Bootstrap makes the first site admin, when there is none. Without a password it makes one up and returns it: to be shown
// once. created is false when there is an admin already.
func (v *Inventory) Bootstrap(ctx context.Context, email, password string) (generated string, created bool, err error) {
	u := devices.User{Email: normal(email), Name: "Admin"}
	if err := u.Validate(); err != nil {
		return "", false, err
	}
	if password == "" {
		generated = newSecret("")[:20]
		password = generated
	}
	if u.PasswordHash, err = v.hashPassword(ctx, password); err != nil {
		return "", false, err
	}
	if created, err = v.store.CreateFirstAdmin(ctx, Caller{Principal: devices.System}.Actor(), u); err != nil || !created {
		return "", false, err
	}
	return generated, true, v.apply(ctx, accessChanged)
}

// random returns n random bytes as base64url.
func random(n int) string {
	b := make([]byte, n)
	rand.Read(b)
	return base64.RawURLEncoding.EncodeToString(b)
}

// clip makes of what a stranger sent a text that can be stored.
func clip(s string, n int) string {
	s = strings.ReplaceAll(strings.ToValidUTF8(s, "?"), "\x00", "?")
	for len(s) > n {
		_, size := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-size]
	}
	return s
}

// sessionCache holds sessions that were looked up lately, at most maxSessions: the rest is forgotten then.
type sessionCache struct {
	mu    sync.Mutex
	known map[string]cachedSession
	gen   uint64 // rises when sessions end, so that a look-up that was under way is not kept
}

type cachedSession struct {
	devices.Session
	read time.Time
}

const maxSessions = 10_000

func (c *sessionCache) get(hash []byte) (devices.Session, time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.known[string(hash)]
	return s.Session, s.read
}

func (c *sessionCache) generation() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.gen
}

func (c *sessionCache) put(s devices.Session, at time.Time, generation uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gen != generation {
		return
	}
	if c.known == nil || len(c.known) >= maxSessions {
		c.known = make(map[string]cachedSession)
	}
	c.known[string(s.Hash)] = cachedSession{s, at}
}

func (c *sessionCache) drop(hash []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gen++
	delete(c.known, string(hash))
}

// forget drops a user's sessions but one.
func (c *sessionCache) forget(user string, keep []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gen++
	for key, s := range c.known {
		if s.User == user && !bytes.Equal(s.Hash, keep) {
			delete(c.known, key)
		}
	}
}
