package filter

import (
	"strings"
	"unicode/utf8"
)

// A function has parameters of kinds, of which the last may be left out.
type function struct {
	name     string
	params   []kind
	optional int
	result   kind
	null     any // what null makes of it
	eval     func(args []any) any
}

var functions = func() map[string]*function {
	all := map[string]*function{}
	add := func(f function) { all[f.name] = &f }
	one := func(name string, eval func(string) string) {
		add(function{name: name, params: []kind{kindString}, result: kindString, eval: func(a []any) any { return eval(a[0].(string)) }})
	}
	one("tolower", strings.ToLower)
	one("toupper", strings.ToUpper)
	one("trim", strings.TrimSpace)
	two := func(name string, eval func(s, t string) bool) {
		add(function{name: name, params: []kind{kindString, kindString}, result: kindBool, null: false, eval: func(a []any) any { return eval(a[0].(string), a[1].(string)) }})
	}
	two("contains", strings.Contains)
	two("startswith", strings.HasPrefix)
	two("endswith", strings.HasSuffix)
	add(function{name: "length", params: []kind{""}, result: kindInt, eval: func(a []any) any {
		if groups, ok := a[0].([]string); ok {
			return int64(len(groups))
		}
		return int64(utf8.RuneCountInString(a[0].(string)))
	}})
	add(function{name: "indexof", params: []kind{kindString, kindString}, result: kindInt, null: int64(-1), eval: func(a []any) any {
		i := strings.Index(a[0].(string), a[1].(string))
		if i < 0 {
			return int64(-1)
		}
		return int64(utf8.RuneCountInString(a[0].(string)[:i]))
	}})
	add(function{name: "concat", params: []kind{kindString, kindString}, result: kindString, eval: func(a []any) any { return a[0].(string) + a[1].(string) }})
	add(function{name: "substring", params: []kind{kindString, kindInt, kindInt}, optional: 1, result: kindString, eval: func(a []any) any {
		runes := []rune(a[0].(string))
		from := min(max(a[1].(int64), 0), int64(len(runes)))
		to := int64(len(runes))
		if len(a) > 2 {
			to = min(from+max(a[2].(int64), 0), to)
			to = max(to, from) // the sum may have wrapped
		}
		return string(runes[from:to])
	}})
	return all
}()

// call reads the arguments of a function.
func (p *parser) call(f *function) (*node, error) {
	if p.depth++; p.depth > maxDepth {
		return nil, p.fail("The filter is too complex.")
	}
	var args []*node
	for sign := "("; ; sign = "," {
		if err := p.expect(sign); err != nil {
			return nil, err
		}
		n, err := p.or()
		if err != nil {
			return nil, err
		}
		if len(args) == len(f.params) {
			return nil, p.fail("Function '%s' has too many arguments.", f.name)
		}
		want := f.params[len(args)]
		if want == "" && n.kind != kindGroups {
			want = kindString
		}
		if want != "" && n.kind != want && n.kind != kindNull {
			return nil, p.mistyped(n.kind, want)
		}
		args = append(args, n)
		if p.tok != "," {
			break
		}
	}
	if len(args) < len(f.params)-f.optional {
		return nil, p.fail("Function '%s' has too few arguments.", f.name)
	}
	if err := p.expect(")"); err != nil {
		return nil, err
	}
	return &node{kind: f.result, call: true, eval: func(s *Subject) any {
		values := make([]any, len(args))
		for i, a := range args {
			if values[i] = a.eval(s); values[i] == nil {
				return f.null
			}
		}
		return f.eval(values)
	}}, nil
}
