"""fastalign inside other libraries; each integration needs the library it is named after."""
