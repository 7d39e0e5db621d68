/* Imports a function that no world provides. */
__attribute__((import_module("nowhere"), import_name("nothing"))) void nothing(void);

int main(void)
{
    nothing();
    return 0;
}
