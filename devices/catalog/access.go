package catalog

import (
	"crypto/sha256"
	"slices"
	"sync/atomic"
	"time"

	"millrace/devices"
)

// access is who may what; immutable but for the time of last use.
type access struct {
	users  map[string]*devices.Principal // without the disabled
	tokens map[string]*token
	hashes map[[32]byte]*token
}

type token struct {
	*devices.Principal
	used *atomic.Int64 // Unix milliseconds, 0: not since it was last asked for; kept over refreshes
}

// newAccess makes principals of records. Those that did not change keep their pointer, so that who holds one can compare.
func newAccess(from Access, before *access) *access {
	a := &access{
		users:  make(map[string]*devices.Principal, len(from.Users)),
		tokens: make(map[string]*token, len(from.Tokens)),
		hashes: make(map[[32]byte]*token, len(from.Tokens)),
	}
	ofUser, ofToken := make(map[string][]devices.Binding), make(map[string][]devices.Binding)
	for _, b := range from.Bindings {
		if b.User != "" {
			ofUser[b.User] = append(ofUser[b.User], b)
		} else {
			ofToken[b.Token] = append(ofToken[b.Token], b)
		}
	}
	for _, u := range from.Users {
		if !u.Disabled {
			a.users[u.ID] = keep(before.users[u.ID], &devices.Principal{Kind: devices.UserPrincipal, ID: u.ID, Name: u.Email, Bindings: ofUser[u.ID]})
		}
	}
	for _, t := range from.Tokens {
		p := &devices.Principal{Kind: devices.TokenPrincipal, ID: t.ID, Name: t.Name, Bindings: ofToken[t.ID]}
		if t.Expires != nil {
			p.Expires = *t.Expires
		}
		now := &token{Principal: p, used: new(atomic.Int64)}
		if old := before.tokens[t.ID]; old != nil {
			now.Principal, now.used = keep(old.Principal, p), old.used
		}
		a.tokens[t.ID] = now
		if len(t.Hash) == sha256.Size {
			a.hashes[[32]byte(t.Hash)] = now
		}
	}
	return a
}

func keep(old, now *devices.Principal) *devices.Principal {
	byID := func(x, y devices.Binding) int {
		if x.ID < y.ID {
			return -1
		}
		return 1
	}
	slices.SortFunc(now.Bindings, byID)
	if old != nil && old.Name == now.Name && old.Expires.Equal(now.Expires) && slices.Equal(old.Bindings, now.Bindings) {
		return old
	}
	return now
}

// Principal returns who that is with the rights as of now; nil if unknown, disabled or expired. The pointer stays the
// same while nothing about the principal changes.
func (c *Catalog) Principal(kind devices.PrincipalKind, id string) *devices.Principal {
	switch kind {
	case devices.UserPrincipal:
		return c.access.Load().users[id]
	case devices.TokenPrincipal:
		if t := c.access.Load().tokens[id]; t != nil && current(t.Principal) {
			return t.Principal
		}
	case devices.DevicePrincipal:
		if d := c.Device(devices.ID(id)); d != nil && d.State() == devices.Active {
			return &devices.Principal{Kind: kind, ID: id, Name: id}
		}
	case devices.SystemPrincipal:
		if id == devices.System.ID {
			return devices.System
		}
	}
	return nil
}

// PrincipalByToken looks an API token's secret up; nil if unknown or expired.
func (c *Catalog) PrincipalByToken(secret string) *devices.Principal {
	t := c.access.Load().hashes[sha256.Sum256([]byte(secret))]
	if t == nil || !current(t.Principal) {
		return nil
	}
	t.used.Store(time.Now().UnixMilli())
	return t.Principal
}

// TokenUses returns when API tokens were last used, of those used since the call before.
func (c *Catalog) TokenUses() map[string]time.Time {
	var uses map[string]time.Time
	for id, t := range c.access.Load().tokens {
		if at := t.used.Swap(0); at != 0 {
			if uses == nil {
				uses = make(map[string]time.Time)
			}
			uses[id] = time.UnixMilli(at)
		}
	}
	return uses
}

func current(p *devices.Principal) bool { return p.Expires.IsZero() || time.Now().Before(p.Expires) }
