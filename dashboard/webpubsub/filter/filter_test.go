package filter

import (
	"slices"
	"strings"
	"testing"
)

func subject(user string, groups ...string) Subject {
	return Subject{ConnectionID: "c1", User: user, HasUser: user != "", Groups: func() []string { return groups }, In: func(g string) bool { return slices.Contains(groups, g) }}
}

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		filter string
		s      Subject
		want   bool
	}{
		{"", subject(""), true},
		{"userId ne 'u1'", subject("u2"), true},
		{"USERID eq 'u1'", subject("u1"), true},
		{"userId eq 'U1'", subject("u1"), false},
		{"userId eq null", subject(""), true},
		{"userId ne null", subject(""), false},
		{"'vip' in groups and not('mute' in groups)", subject("a", "vip"), true},
		{"'vip' in groups and not('mute' in groups)", subject("a", "vip", "mute"), false},
		{"startswith(userId,'dev-') or userId eq null", subject("dev-1"), true},
		{"startswith(userId,'dev-') or userId eq null", subject(""), true},
		{"startswith(userId,'dev-')", subject(""), false},
		{"length(groups) gt 2", subject("a", "1", "2", "3"), true},
		{"length(groups) gt 2", subject("a", "1", "2"), false},
		{"not (length(userId) gt 5)", subject("abc"), true},
		{"length(userId) gt 1", subject(""), false},
		{"userId in ('a', 'b''c')", subject("b'c"), true},
		{"userId in ('a', 'b')", subject("c"), false},
		{"connectionId eq 'c1'", subject(""), true},
		{"indexof(userId, 'b') eq 1", subject("äbc"), true},
		{"indexof(userId, 'b') eq -1", subject(""), true},
		{"substring(userId, 1) eq 'bc'", subject("abc"), true},
		{"substring(userId, 1, 1) eq 'b'", subject("abc"), true},
		{"substring(userId, 9, 9223372036854775807) eq ''", subject("abc"), true},
		{"concat(toupper(userId), trim(' x ')) eq 'ABCx'", subject("abc"), true},
		{"contains(tolower(userId), 'b')", subject("ABC"), true},
		{"endswith(userId, 'c')", subject("abc"), true},
		{"true or userId eq 'x' and false", subject("a"), true},
		{"(true or true) and false", subject("a"), false},
		{"not false eq true", subject("a"), true},
		{"3 ge 3 and 2 le 3 and 2 lt 3", subject("a"), true},
	} {
		f, err := Parse(c.filter)
		if err != nil {
			t.Errorf("%s: %v", c.filter, err)
			continue
		}
		if got := f.Match(c.s); got != c.want {
			t.Errorf("%s for %q: %t", c.filter, c.s.User, got)
		}
	}
}

func TestErrors(t *testing.T) {
	for filter, want := range map[string]string{
		"invalid filter":      "Invalid syntax for 'invalid filter': Syntax error at position 14 in 'invalid filter'. (Parameter 'filter')",
		"userId lt 1":         "Invalid syntax for 'userId lt 1': Type 'string', expect 'int'. (Parameter 'filter')",
		"ab eq 1":             "Invalid syntax for 'ab eq 1': Token 'ab' is not supported. (Parameter 'filter')",
		"not length(userId)":  "Invalid syntax for 'not length(userId)': Type 'null', expect 'bool'. (Parameter 'filter')",
		"( not 'a' )":         "Invalid syntax for 'not 'a'': Type 'string', expect 'bool'. (Parameter 'filter')",
		"invalid(ab,c)":       "Invalid syntax for 'invalid(ab,c)': Token 'invalid(ab,c)' is not supported. (Parameter 'filter')",
		"any(')''(') or true": "Invalid syntax for 'any(')''(') or true': Token 'any(')''(')' is not supported. (Parameter 'filter')",
		"(userId) lt (1)":     "Invalid syntax for '(userId) lt (1)': Type 'string', expect 'int'. (Parameter 'filter')",
		"'ä' ü":               "Invalid syntax for ''ä' ü': Syntax error at position 4 in ''ä' ü'. (Parameter 'filter')",
		"not length(groups)":  "Invalid syntax for 'not length(groups)': Type 'int', expect 'bool'. (Parameter 'filter')",
	} {
		if _, err := Parse(filter); err == nil || err.Error() != want {
			t.Errorf("%s:\ngot  %v\nwant %s", filter, err, want)
		}
	}
	for _, filter := range []string{" ", "userId", "'a", "userId eq", "userId eq 'a' userId", "length()", "length(userId, userId)", "substring(userId)", "groups eq groups", "1 in groups and",
		"any(x)", "userId eq 1", "userId in ('a'", "userId in ()", "'a' in userId", "a/b eq 1", "$filter", "99999999999999999999 eq 1", strings.Repeat("(", 200) + "true" + strings.Repeat(")", 200),
		strings.Repeat("not ", 200) + "true", "true" + strings.Repeat(" and true", 200), strings.Repeat("x", 1<<20)} {
		if _, err := Parse(filter); err == nil {
			t.Errorf("%.40s was taken", filter)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"userId ne 'u1'", "'vip' in groups and not('mute' in groups)", "substring(userId,1,2) eq 'a''b'", "length(groups) gt 2 or null eq userId", "userId in ('a',null)"} {
		f.Add(s)
	}
	subjects := []Subject{subject(""), subject("u1", "vip"), subject("ä", "a", "b", "c")}
	f.Fuzz(func(t *testing.T, s string) {
		f, err := Parse(s)
		if err != nil {
			return
		}
		for _, s := range subjects {
			f.Match(s)
		}
	})
}
