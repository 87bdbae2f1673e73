package devices

import (
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// A GroupPath names a group: one to eight parts of [A-Za-z0-9._-]{1,64} joined by slashes, such as "plant1/line2/press".
// The empty path is the whole site: no group of its own, but a place where rights can be given.
type GroupPath string

// Site is the path above all groups.
const Site GroupPath = ""

// MaxGroupDepth is the number of parts a path may have.
const MaxGroupDepth = 8

// Validate reports a FieldError "path" unless p is a well-formed path of a group (so not Site).
// "stream" can't be a part: GET /api/v1/groups/{group}/stream means the stream of the group.
func (p GroupPath) Validate() error {
	if p == Site {
		return Invalid("path", "is empty; a path looks like plant1/line2")
	}
	parts := strings.Split(string(p), "/")
	if len(parts) > MaxGroupDepth {
		return Invalid("path", "has %d parts; at most %d are allowed", len(parts), MaxGroupDepth)
	}
	for _, part := range parts {
		if !validName(part, 64) || part == "." || part == ".." || part == "stream" {
			return Invalid("path", "part %q must be 1 to 64 of A-Z a-z 0-9 . _ - and not . or .. or stream", part)
		}
	}
	return nil
}

// Parent returns the path one level up; the parent of a top-level group is Site, and Site is its own parent.
func (p GroupPath) Parent() GroupPath {
	i := strings.LastIndexByte(string(p), '/')
	if i < 0 {
		return Site
	}
	return p[:i]
}

// Name returns the last part of the path.
func (p GroupPath) Name() string { return string(p[strings.LastIndexByte(string(p), '/')+1:]) }

// Contains reports whether q is p or lies below it. Site contains every path.
func (p GroupPath) Contains(q GroupPath) bool {
	return p == Site || p == q || len(q) > len(p) && q[len(p)] == '/' && q[:len(p)] == p
}

// WithAncestors returns the paths and all above them, Site excluded, each once, in no particular order.
func WithAncestors(paths []GroupPath) []GroupPath {
	seen := make(map[GroupPath]bool, 2*len(paths))
	var all []GroupPath
	for _, p := range paths {
		for ; p != Site && !seen[p]; p = p.Parent() {
			seen[p] = true
			all = append(all, p)
		}
	}
	return all
}

// A Group is a named set of devices. What is in a group is also in every group above it.
type Group struct {
	Path      GroupPath     `json:"path"`
	Label     string        `json:"label"`
	Tick      time.Duration `json:"-"`             // how often its changes are cut; 0 means the default. API: "tickMs"
	Retention *int          `json:"retentionDays"` // how long samples of its devices stay, in days; Forever; nil: as in the group above
	Devices   int           `json:"devices"`       // devices in it or below; read only
	CreatedAt time.Time     `json:"createdAt"`
}

// Bounds of Group.Tick.
const (
	MinTick     = 16 * time.Millisecond
	MaxTick     = 60 * time.Second
	DefaultTick = 50 * time.Millisecond
)

// Validate checks path, label and tick.
func (g Group) Validate() error {
	if err := g.Path.Validate(); err != nil {
		return err
	}
	if err := validText("label", g.Label, 200); err != nil {
		return err
	}
	if g.Tick != 0 && (g.Tick < MinTick || g.Tick > MaxTick) {
		return Invalid("tickMs", "must be between %d and %d milliseconds", MinTick.Milliseconds(), MaxTick.Milliseconds())
	}
	if g.Retention != nil && (*g.Retention < Forever || *g.Retention > MaxRetention) {
		return Invalid("retentionDays", "must be 1 to %d days, 0 for ever, or nothing for that of the group above", MaxRetention)
	}
	return nil
}

// validText checks one line of text that a person gave.
func validText(field, s string, max int) error {
	if len(s) > max {
		return Invalid(field, "is longer than %d bytes", max)
	}
	if !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {
		return Invalid(field, "holds control characters or bytes that are no UTF-8")
	}
	return nil
}

func validName(s string, max int) bool {
	if len(s) == 0 || len(s) > max {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '.' && c != '_' && c != '-' {
			return false
		}
	}
	return true
}
