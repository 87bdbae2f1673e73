package hubs

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"millrace/devices"
)

// A Store keeps settings. Each change writes its audit entry and tells the other processes.
type Store interface {
	HubSettings(ctx context.Context) ([]Settings, error)
	HubKeys(ctx context.Context) (Keys, error)                                   // empty ones: there are none yet
	SaveHub(ctx context.Context, by devices.Actor, s Settings) (Settings, error) // with Changed set
	DeleteHub(ctx context.Context, by devices.Actor, hub string) error           // devices.ErrNotFound
	SaveKeys(ctx context.Context, by devices.Actor, k Keys, action string) error // action: for the audit
}

// A Registry has the settings in memory. Reading takes no lock.
type Registry struct {
	store Store
	fixed string // primary key that is set from outside

	mu    sync.Mutex // of those who change it
	state atomic.Pointer[state]
}

type state struct {
	hubs map[string]Settings
	keys Keys
}

// NewRegistry returns a registry that is empty until Load. A primary key that is not "" is in force in place of the stored one.
func NewRegistry(store Store, primary string) *Registry {
	r := &Registry{store: store, fixed: primary}
	r.state.Store(&state{keys: Keys{Primary: primary}})
	return r
}

// Load reads the settings, and makes keys when there are none.
func (r *Registry) Load(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	all, err := r.store.HubSettings(ctx)
	if err != nil {
		return err
	}
	keys, err := r.store.HubKeys(ctx)
	if err != nil {
		return err
	}
	if keys.Primary == "" {
		keys = Keys{NewKey(), NewKey()}
		if err := r.store.SaveKeys(ctx, devices.Actor{Name: "server"}, keys, "webpubsub.keys.create"); err != nil {
			return err
		}
		if keys, err = r.store.HubKeys(ctx); err != nil { // another process may have been first
			return err
		}
	}
	if r.fixed != "" {
		keys.Primary = r.fixed
	}
	s := &state{hubs: make(map[string]Settings, len(all)), keys: keys}
	for _, h := range all {
		s.hubs[h.Hub] = h
	}
	r.state.Store(s)
	return nil
}

// Hub returns the settings of a hub in any case, those of Default if it has none.
func (r *Registry) Hub(name string) Settings {
	name = strings.ToLower(name)
	if s, ok := r.state.Load().hubs[name]; ok {
		return s
	}
	return Default(name)
}

// Hubs returns those that have settings, by name.
func (r *Registry) Hubs() []Settings {
	return slices.SortedFunc(maps.Values(r.state.Load().hubs), func(a, b Settings) int { return strings.Compare(a.Hub, b.Hub) })
}

// Keys returns the keys that are in force.
func (r *Registry) Keys() Keys { return r.state.Load().keys }

// Fixed reports whether the primary key is set from outside, and can't be replaced here.
func (r *Registry) Fixed() bool { return r.fixed != "" }

// Save checks and stores the settings of a hub, which are in force when it returns.
func (r *Registry) Save(ctx context.Context, by devices.Actor, s Settings) error {
	s.Hub = strings.ToLower(s.Hub)
	if s.KeepAlive == 0 {
		s.KeepAlive = Default("").KeepAlive
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.state.Load()
	if err := s.Validate(); err != nil {
		return err
	}
	listeners := len(s.Listeners)
	for name, h := range old.hubs {
		if name != s.Hub {
			listeners += len(h.Listeners)
		}
	}
	if listeners > MaxListeners {
		return devices.Invalid("listeners", "are %d in all hubs together; %d can be", listeners, MaxListeners)
	}
	s, err := r.store.SaveHub(ctx, by, s)
	if err != nil {
		return err
	}
	changed := maps.Clone(old.hubs)
	changed[s.Hub] = s
	r.state.Store(&state{changed, old.keys})
	return nil
}

// Delete gives a hub the settings of Default.
func (r *Registry) Delete(ctx context.Context, by devices.Actor, name string) error {
	name = strings.ToLower(name)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.store.DeleteHub(ctx, by, name); err != nil {
		return err
	}
	old := r.state.Load()
	changed := maps.Clone(old.hubs)
	delete(changed, name)
	r.state.Store(&state{changed, old.keys})
	return nil
}

// RotateKey replaces a key, "primary" or "secondary", and returns both. What was signed with the old one is refused from then on.
func (r *Registry) RotateKey(ctx context.Context, by devices.Actor, which string) (Keys, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.state.Load()
	keys := old.keys
	switch {
	case which == "primary" && r.fixed != "":
		return keys, fmt.Errorf("the primary key is set by --access-key: %w", devices.ErrForbidden)
	case which == "primary":
		keys.Primary = NewKey()
	case which == "secondary":
		keys.Secondary = NewKey()
	default:
		return keys, devices.Invalid("key", "can be primary or secondary")
	}
	if err := r.store.SaveKeys(ctx, by, keys, "webpubsub.keys.rotate "+which); err != nil {
		return old.keys, err
	}
	r.state.Store(&state{old.hubs, keys})
	return keys, nil
}

// NewKey makes an access key of 43 characters.
func NewKey() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// CheckKey reports why a key that somebody chose can't be one.
func CheckKey(key string) error {
	if len(key) < 32 || strings.ContainsAny(key, "; \t\r\n") {
		return fmt.Errorf("must have at least 32 characters, without blanks and semicolons")
	}
	return nil
}

// A Letter is a notification that no handler took.
type Letter struct {
	At         time.Time `json:"at"`
	Hub        string    `json:"hub"`
	Connection string    `json:"connection"`
	User       string    `json:"user,omitempty"`
	Event      string    `json:"event"`
	ID         string    `json:"id"` // ce-id
	URL        string    `json:"url"`
	Attempts   int       `json:"attempts"`
	Reason     string    `json:"reason"`
	Body       []byte    `json:"body,omitempty"`
}
