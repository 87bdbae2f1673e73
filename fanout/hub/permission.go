package hub

import (
	"errors"
	"slices"
	"strings"
)

// A Permission is what a client may do with groups by itself.
type Permission int

// The permissions that servers can grant and revoke.
const (
	SendToGroup Permission = iota
	JoinLeaveGroup
	setGroupState
	getGroupState
	permissions
)

// ErrRules is answered when a permission has as many rules of its own as it may.
var ErrRules = errors.New("hub: the connection has too many rules for this permission")

// Limits of a permission's rules.
const (
	maxLiterals = 1000
	maxPatterns = 9
)

// rules decide for which groups a permission holds: a group that is named wins over patterns, and these over the default.
type rules struct {
	all      bool
	patterns []pattern
	literals map[string]bool
}

func (r *rules) allowed(group string) bool {
	if yes, named := r.literals[group]; named {
		return yes
	}
	return r.all || slices.ContainsFunc(r.patterns, func(p pattern) bool { return p.match(group) })
}

// set grants or revokes one group; no more than it takes to make it so is kept.
func (r *rules) set(group string, allow bool) error {
	if r.allowed(group) == allow {
		return nil
	}
	if _, named := r.literals[group]; named {
		delete(r.literals, group)
		if r.allowed(group) == allow {
			return nil
		}
	}
	if len(r.literals) >= maxLiterals {
		return ErrRules
	}
	if r.literals == nil {
		r.literals = map[string]bool{}
	}
	r.literals[group] = allow
	return nil
}

// allow adds a pattern, and drops what it makes superfluous.
func (r *rules) allow(p pattern) {
	if len(r.patterns) == maxPatterns {
		return
	}
	r.patterns = append(r.patterns, p)
	for group := range r.literals {
		if p.match(group) {
			delete(r.literals, group)
		}
	}
}

// permissionsOf reads the roles of a token or a connect handler. What is unknown or malformed is left out.
func permissionsOf(roles []string) (all [permissions]rules) {
	roles = slices.Clone(roles)
	slices.Sort(roles)
	names := map[string]Permission{"sendToGroup": SendToGroup, "joinLeaveGroup": JoinLeaveGroup, "setGroupState": setGroupState, "getGroupState": getGroupState}
	for _, role := range roles {
		rest, ok := strings.CutPrefix(role, "webpubsub.")
		if !ok {
			continue
		}
		name, target, targeted := strings.Cut(rest, ".")
		p, known := names[name]
		wildcard := known && p >= setGroupState
		if !known {
			if p, known = names[strings.TrimSuffix(name, "s")]; !known || p >= setGroupState || !targeted {
				continue
			}
			wildcard = true
		}
		switch r := &all[p]; {
		case !targeted:
			r.all = true
			clear(r.literals)
		case target == "":
		case !wildcard:
			_ = r.set(target, true)
		default:
			if pt, err := parsePattern(target); err == nil && pt.everything() {
				r.all = true
				clear(r.literals)
			} else if err == nil && pt.literal() {
				_ = r.set(pt.text(), true)
			} else if err == nil {
				r.allow(pt)
			}
		}
	}
	return all
}

// Allowed reports whether a permission holds for a group now.
func (c *Conn) Allowed(p Permission, group string) bool {
	if c.spec.May != nil {
		return c.spec.May(p, group)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.permissions[p].allowed(group)
}

// Governed reports whether Spec.May decides.
func (c *Conn) Governed() bool { return c.spec.May != nil }

// AllowedAll reports whether a permission holds for every group that is not named.
func (c *Conn) AllowedAll(p Permission) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.permissions[p].all
}

// Grant gives a permission for a group, "" for all. ErrRules when there are too many.
func (c *Conn) Grant(p Permission, group string) error { return c.permit(p, group, true) }

// Revoke takes a permission for a group away, "" for all; members stay members.
func (c *Conn) Revoke(p Permission, group string) error { return c.permit(p, group, false) }

func (c *Conn) permit(p Permission, group string, allow bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if group == "" {
		c.permissions[p] = rules{all: allow}
		return nil
	}
	return c.permissions[p].set(group, allow)
}

// A token of a pattern: a rune, or a wildcard.
type token struct {
	kind tokenKind
	r    rune
}

type tokenKind uint8

const (
	exactly    tokenKind = iota
	one                  // ?: one that is no dot
	anyButDots           // *: any number that are no dots
	anything             // **: any number of all
)

type pattern []token

var errPattern = errors.New("hub: the pattern is not valid")

// Limits of a pattern.
const (
	maxPatternLength = 1024
	maxStars         = 5
)

// parsePattern reads * ** ? and \, which takes the meaning from these and itself.
func parsePattern(s string) (pattern, error) {
	runes := []rune(s)
	if len(runes) == 0 || len(runes) > maxPatternLength {
		return nil, errPattern
	}
	var p pattern
	stars := 0
	for i := 0; i < len(runes); i++ {
		switch r := runes[i]; r {
		case '\\':
			i++
			if i == len(runes) || !strings.ContainsRune(`\*?`, runes[i]) {
				return nil, errPattern
			}
			p = append(p, token{exactly, runes[i]})
		case '?':
			p = append(p, token{kind: one})
		case '*':
			run := 1
			for i+1 < len(runes) && runes[i+1] == '*' {
				i++
				run++
			}
			if stars += run; stars > maxStars {
				return nil, errPattern
			}
			if run == 1 {
				p = append(p, token{kind: anyButDots})
			} else {
				p = append(p, token{kind: anything})
			}
		default:
			p = append(p, token{exactly, r})
		}
	}
	return p, nil
}

func (p pattern) everything() bool { return len(p) == 1 && p[0].kind == anything }

func (p pattern) literal() bool {
	return !slices.ContainsFunc(p, func(t token) bool { return t.kind != exactly })
}

func (p pattern) text() string {
	var b strings.Builder
	for _, t := range p {
		b.WriteRune(t.r)
	}
	return b.String()
}

// match tells whether p matches all of s. It goes through s once, with the set of places in p that can have been reached, so that no pattern makes
// it slow.
func (p pattern) match(s string) bool {
	now, then := make([]bool, len(p)+1), make([]bool, len(p)+1)
	reach := func(at []bool, i int) { // and what follows it without a rune
		for at[i] = true; i < len(p) && p[i].kind >= anyButDots; {
			i++
			at[i] = true
		}
	}
	reach(now, 0)
	for _, r := range s {
		clear(then)
		for i, here := range now[:len(p)] {
			if !here {
				continue
			}
			switch t := p[i]; {
			case t.kind == anything, t.kind == anyButDots && r != '.':
				reach(then, i)
			case t.kind == one && r != '.', t.kind == exactly && r == t.r:
				reach(then, i+1)
			}
		}
		now, then = then, now
	}
	return now[len(p)]
}

// MatchPattern reports whether a name matches a pattern of roles; an invalid pattern matches nothing.
func MatchPattern(pattern, name string) bool {
	p, err := parsePattern(pattern)
	return err == nil && p.match(name)
}
