// Package filter reads the subset of OData filters (OData 4.01, URL conventions 5.1.1) with which servers choose Web PubSub connections:
// userId ne 'u1' and 'vip' in groups.
package filter

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxDepth is how deep an expression may nest.
const maxDepth = 100

// maxLength is the longest filter in bytes.
const maxLength = 16 << 10

// A Subject is a connection as a filter sees it.
type Subject struct {
	ConnectionID string
	User         string
	HasUser      bool // else userId is null
	Protocol     string
	Groups       func() []string
	In           func(group string) bool
}

// A Filter chooses connections. It can be used by many at once.
type Filter struct{ root *node } // nil: all

// Match reports whether a connection is chosen.
func (f *Filter) Match(s Subject) bool {
	return f.root == nil || f.root.eval(&s) == true
}

// A kind is the type of an expression.
type kind string

const (
	kindString kind = "string"
	kindInt    kind = "int"
	kindBool   kind = "bool"
	kindNull   kind = "null"
	kindGroups kind = "string[]"
)

// A node is an expression; its value is a string, int64, bool, nil, or []string.
type node struct {
	kind kind
	call bool // of a function
	eval func(*Subject) any
}

// nobody is who filters are tried on.
var nobody = &Subject{Groups: func() []string { return nil }, In: func(string) bool { return false }}

// An Error says what is wrong with a filter.
type Error struct{ filter, what string }

func (e *Error) Error() string {
	return fmt.Sprintf("Invalid syntax for '%s': %s (Parameter 'filter')", e.filter, e.what)
}

// Parse reads a filter; "" matches all. Errors are *Error.
func Parse(s string) (*Filter, error) {
	if s == "" {
		return &Filter{}, nil
	}
	p := &parser{text: s}
	if len(s) > maxLength || !utf8.ValidString(s) {
		return nil, &Error{s[:min(len(s), 100)], "The filter is too long or not UTF-8."}
	}
	root, err := p.parse()
	if err != nil {
		return nil, err
	}
	return &Filter{root}, nil
}

type parser struct {
	text  string
	pos   int
	depth int
	tok   string // what is next; "" at the end
	at    int    // where it begins
}

func (p *parser) fail(format string, args ...any) error {
	text := strings.TrimSpace(p.text)
	for strings.HasPrefix(text, "(") && closing(text, 0) == len(text)-1 {
		text = strings.TrimSpace(text[1 : len(text)-1])
	}
	return &Error{text, fmt.Sprintf(format, args...)}
}

func (p *parser) syntax(at int) error {
	return &Error{p.text, fmt.Sprintf("Syntax error at position %d in '%s'.", utf8.RuneCountInString(p.text[:at]), p.text)}
}

// closing finds the parenthesis that closes the one at open, or -1.
func closing(s string, open int) int {
	depth, quoted := 0, false
	for i := open; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\'':
			quoted = !quoted // a doubled quote does so twice
		case quoted:
		case c == '(':
			depth++
		case c == ')':
			if depth--; depth == 0 {
				return i
			}
		}
	}
	return -1
}

func (p *parser) mistyped(have, want kind) error {
	return p.fail("Type '%s', expect '%s'.", have, want)
}

func (p *parser) parse() (*node, error) {
	if err := p.next(); err != nil {
		return nil, err
	}
	n, err := p.or()
	if err != nil {
		return nil, err
	}
	if p.tok != "" {
		return nil, p.syntax(p.pos)
	}
	if n.kind != kindBool {
		return nil, p.mistyped(n.kind, kindBool)
	}
	return n, nil
}

func letter(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' || c == '_' }
func digit(c byte) bool  { return c >= '0' && c <= '9' }

// next reads a token: a word, a number, a string with its quotes, or a sign.
func (p *parser) next() error {
	for p.pos < len(p.text) && strings.IndexByte(" \t\r\n", p.text[p.pos]) >= 0 {
		p.pos++
	}
	p.at = p.pos
	if p.pos == len(p.text) {
		p.tok = ""
		return nil
	}
	c := p.text[p.pos]
	end := p.pos + 1
	switch {
	case letter(c):
		for end < len(p.text) && (letter(p.text[end]) || digit(p.text[end])) {
			end++
		}
	case digit(c), c == '-' && end < len(p.text) && digit(p.text[end]):
		for end < len(p.text) && digit(p.text[end]) {
			end++
		}
	case c == '\'':
		for {
			i := strings.IndexByte(p.text[end:], '\'')
			if i < 0 {
				return p.syntax(len(p.text))
			}
			if end += i + 1; end == len(p.text) || p.text[end] != '\'' {
				break
			}
			end++
		}
	case c == '(', c == ')', c == ',':
	default:
		return p.syntax(p.pos)
	}
	p.tok, p.pos = p.text[p.pos:end], end
	return nil
}

// word takes a keyword if it is next.
func (p *parser) word(w string) (bool, error) {
	if !strings.EqualFold(p.tok, w) {
		return false, nil
	}
	return true, p.next()
}

func (p *parser) expect(sign string) error {
	if p.tok != sign {
		return p.syntax(p.pos)
	}
	return p.next()
}

func (p *parser) or() (*node, error)  { return p.logic("or", p.and) }
func (p *parser) and() (*node, error) { return p.logic("and", p.comparison) }

// logic reads operands with a word between them. Both sides are always evaluated.
func (p *parser) logic(word string, operand func() (*node, error)) (*node, error) {
	left, err := operand()
	if err != nil {
		return nil, err
	}
	for {
		if ok, err := p.word(word); err != nil || !ok {
			return left, err
		}
		right, err := operand()
		if err != nil {
			return nil, err
		}
		for _, n := range []*node{left, right} {
			if n.kind != kindBool {
				return nil, p.mistyped(n.kind, kindBool)
			}
		}
		if p.depth++; p.depth > maxDepth {
			return nil, p.fail("The filter is too complex.")
		}
		a, b, and := left, right, word == "and"
		left = &node{kind: kindBool, eval: func(s *Subject) any {
			x, y := a.eval(s) == true, b.eval(s) == true
			return and && x && y || !and && (x || y)
		}}
	}
}

var comparisons = []string{"eq", "ne", "gt", "ge", "lt", "le", "in"}

func (p *parser) comparison() (*node, error) {
	left, err := p.unary()
	if err != nil {
		return nil, err
	}
	op := strings.ToLower(p.tok)
	if !slices.Contains(comparisons, op) {
		return left, nil
	}
	if err := p.next(); err != nil {
		return nil, err
	}
	if op == "in" {
		return p.membership(left)
	}
	right, err := p.unary()
	if err != nil {
		return nil, err
	}
	if op == "eq" || op == "ne" {
		if left.kind != right.kind && left.kind != kindNull && right.kind != kindNull {
			return nil, p.mistyped(right.kind, left.kind)
		}
		if left.kind == kindGroups || right.kind == kindGroups {
			return nil, p.mistyped(kindGroups, kindString)
		}
		return &node{kind: kindBool, eval: func(s *Subject) any { return (left.eval(s) == right.eval(s)) == (op == "eq") }}, nil
	}
	for _, n := range []*node{left, right} {
		if n.kind != kindInt && n.kind != kindNull {
			return nil, p.mistyped(n.kind, kindInt)
		}
	}
	return &node{kind: kindBool, eval: func(s *Subject) any {
		a, ok := left.eval(s).(int64)
		b, too := right.eval(s).(int64)
		if !ok || !too {
			return false
		}
		switch op {
		case "gt":
			return a > b
		case "ge":
			return a >= b
		case "lt":
			return a < b
		}
		return a <= b
	}}, nil
}

// membership reads what is after in: groups, or a list.
func (p *parser) membership(left *node) (*node, error) {
	if left.kind != kindString && left.kind != kindInt && left.kind != kindNull {
		return nil, p.mistyped(left.kind, kindString)
	}
	if p.tok != "(" {
		right, err := p.primary()
		if err != nil {
			return nil, err
		}
		if right.kind != kindGroups {
			return nil, p.mistyped(right.kind, kindGroups)
		}
		return &node{kind: kindBool, eval: func(s *Subject) any {
			group, ok := left.eval(s).(string)
			return ok && s.In(group)
		}}, nil
	}
	var items []*node
	for sign := "("; ; sign = "," {
		if err := p.expect(sign); err != nil {
			return nil, err
		}
		n, err := p.primary()
		if err != nil {
			return nil, err
		}
		if n.kind != left.kind && n.kind != kindNull && left.kind != kindNull {
			return nil, p.mistyped(n.kind, left.kind)
		}
		items = append(items, n)
		if p.tok != "," {
			break
		}
	}
	if err := p.expect(")"); err != nil {
		return nil, err
	}
	return &node{kind: kindBool, eval: func(s *Subject) any {
		v := left.eval(s)
		return slices.ContainsFunc(items, func(n *node) bool { return n.eval(s) == v })
	}}, nil
}

func (p *parser) unary() (*node, error) {
	ok, err := p.word("not")
	if err != nil {
		return nil, err
	}
	if !ok {
		return p.primary()
	}
	if p.depth++; p.depth > maxDepth {
		return nil, p.fail("The filter is too complex.")
	}
	n, err := p.unary()
	if err != nil {
		return nil, err
	}
	if n.kind != kindBool {
		if n.call && n.eval(nobody) == nil {
			return nil, p.mistyped(kindNull, kindBool)
		}
		return nil, p.mistyped(n.kind, kindBool)
	}
	return &node{kind: kindBool, eval: func(s *Subject) any { return n.eval(s) != true }}, nil
}

func constant(k kind, v any) *node { return &node{kind: k, eval: func(*Subject) any { return v }} }

// properties of a connection, by name in lower case.
var properties = map[string]*node{
	"userid": {kind: kindString, eval: func(s *Subject) any {
		if !s.HasUser {
			return nil
		}
		return s.User
	}},
	"connectionid": {kind: kindString, eval: func(s *Subject) any { return s.ConnectionID }},
	"protocol": {kind: kindString, eval: func(s *Subject) any {
		if s.Protocol == "" {
			return nil
		}
		return s.Protocol
	}},
	"groups": {kind: kindGroups, eval: func(s *Subject) any { return s.Groups() }},
	"true":   constant(kindBool, true),
	"false":  constant(kindBool, false),
	"null":   constant(kindNull, nil),
}

func (p *parser) primary() (*node, error) {
	tok, at := p.tok, p.at
	if tok == "" {
		return nil, p.syntax(at)
	}
	if err := p.next(); err != nil {
		return nil, err
	}
	switch c := tok[0]; {
	case c == '(':
		if p.depth++; p.depth > maxDepth {
			return nil, p.fail("The filter is too complex.")
		}
		n, err := p.or()
		if err != nil {
			return nil, err
		}
		return n, p.expect(")")
	case c == '\'':
		return constant(kindString, strings.ReplaceAll(tok[1:len(tok)-1], "''", "'")), nil
	case digit(c), c == '-':
		n, err := strconv.ParseInt(tok, 10, 64)
		if err != nil {
			return nil, p.syntax(at)
		}
		return constant(kindInt, n), nil
	case !letter(c):
		return nil, p.syntax(at)
	}
	if p.tok == "(" {
		if f, ok := functions[strings.ToLower(tok)]; ok {
			return p.call(f)
		}
		end := closing(p.text, p.at)
		if end < 0 {
			return nil, p.syntax(len(p.text))
		}
		return nil, p.fail("Token '%s' is not supported.", p.text[at:end+1])
	}
	if n, ok := properties[strings.ToLower(tok)]; ok {
		return n, nil
	}
	if p.tok != "" && p.tok != ")" && p.tok != "," && !slices.Contains(comparisons, strings.ToLower(p.tok)) && !strings.EqualFold(p.tok, "and") && !strings.EqualFold(p.tok, "or") {
		return nil, p.syntax(p.pos)
	}
	return nil, p.fail("Token '%s' is not supported.", tok)
}
