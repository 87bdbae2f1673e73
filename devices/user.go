package devices

import (
	"encoding/json"
	"strings"
	"time"
)

// A User signs in with e-mail and password.
type User struct {
	ID           string     `json:"id"`
	Email        string     `json:"email"` // lower case, unique
	Name         string     `json:"name"`
	PasswordHash string     `json:"-"` // argon2id in PHC format
	Disabled     bool       `json:"disabled"`
	CreatedAt    time.Time  `json:"createdAt"`
	LastLogin    *time.Time `json:"lastLogin,omitempty"`
}

// Validate checks e-mail and name.
func (u User) Validate() error {
	if !validEmail(u.Email) {
		return Invalid("email", "is no e-mail address")
	}
	return validText("name", u.Name, 200)
}

// validEmail takes what has the shape of an address, as browsers do for input type=email: whether it exists only mail can
// tell. (net/mail would bring the network into packages that must be free of it.)
func validEmail(s string) bool {
	local, domain, ok := strings.Cut(s, "@")
	return ok && len(s) <= 254 && local != "" && domain != "" && !strings.ContainsAny(s, " \t\r\n<>()[],;:\\\"") &&
		!strings.Contains(domain, "@") && !strings.HasPrefix(domain, ".") && !strings.HasSuffix(domain, ".") && !strings.Contains(domain, "..")
}

// MinPassword is the shortest password taken, in bytes (NIST SP 800-63B-4, 3.1.1.2: length counts, not classes).
const MinPassword = 10

// An APIToken lets a program in. Hash is SHA-256 of the secret. What it may is in its Bindings; Role and Group are those it
// was made with.
type APIToken struct {
	ID        string     `json:"id"`
	Name      string     `json:"name"`
	Role      Role       `json:"role"`
	Group     GroupPath  `json:"group"`
	Hint      string     `json:"hint"`
	Hash      []byte     `json:"-"`
	CreatedAt time.Time  `json:"createdAt"`
	CreatedBy string     `json:"createdBy"` // Principal.Name
	Expires   *time.Time `json:"expires,omitempty"`
	LastUsed  *time.Time `json:"lastUsed,omitempty"`
}

// A Session is a signed-in browser. Hash is SHA-256 of the cookie's value.
type Session struct {
	Hash      []byte
	User      string // User.ID
	CSRF      string // what forms must send back
	CreatedAt time.Time
	Expires   time.Time
	IP        string
	Agent     string
}

// An Actor is who did something, for the audit.
type Actor struct {
	Kind PrincipalKind
	ID   string
	Name string
	IP   string // empty for the command line
}

// An AuditEntry says who changed what when, from where.
type AuditEntry struct {
	ID     int64           `json:"id"`
	At     time.Time       `json:"at"`
	Actor  string          `json:"actor"` // Actor.Name
	Kind   PrincipalKind   `json:"actorKind"`
	IP     string          `json:"ip"`
	Action string          `json:"action"` // noun.verb, e.g. "device.create"
	Object string          `json:"object"` // id or path of what was changed
	Detail json.RawMessage `json:"detail"` // a JSON object: the fields that changed, never secrets
}

// A Page asks for part of a list.
type Page struct {
	After string // cursor of the page before, "" for the first
	Limit int    // 1 to MaxPage; 0 means DefaultPage
}

// Sizes of pages.
const (
	DefaultPage = 100
	MaxPage     = 1000
)

// Size returns the limit within its bounds.
func (p Page) Size() int {
	if p.Limit <= 0 {
		return DefaultPage
	}
	return min(p.Limit, MaxPage)
}

// A List is one page of things in a stable order; Next is the cursor of the following page, "" on the last.
type List[T any] struct {
	Items []T
	Next  string
}

// A DeviceFilter picks devices. Zero fields pick all.
type DeviceFilter struct {
	Page
	Groups []GroupPath // in one of these or below; nil: everywhere (also in no group)
	State  State
	Type   string
	Search string // part of id or label, letter case ignored
}

// An AuditFilter picks audit entries, newest first.
type AuditFilter struct {
	Page
	Actor, Action, Object string // exact actor; prefix of action; exact object
}
