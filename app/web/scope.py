"""Which account a call is about: the one that the key opens, or, for the operator, the one that `account` names."""

from app.domain.errors import InvalidParameters, ParameterFault
from app.domain.faults import Fault
from app.store.accounts import Accounts, Owner
from app.web.auth import Caller, told


async def account_meant(caller: Caller, accounts: Accounts, parameters: dict[str, str]) -> int:
    """The account that `caller` means, who names it as `account` where it is the operator; that is taken out of the
    `parameters`. Raises InvalidParameters."""
    if caller.account is not None:
        return caller.account
    name = parameters.pop("account", "")
    account = await accounts.named(name) if name else None
    if account is None:
        code = Fault.INVALID_PARAMETER if name else "missing_parameter"
        message = "account must be the name of an account: with the operator's key, it says whose is meant."
        raise InvalidParameters([ParameterFault("account", code, message)])
    return told(Owner(account, name))


async def narrow(caller: Caller, accounts: Accounts, parameters: dict[str, str]) -> None:
    """Have `account` among the parameters of a list hold the number of the account whose entries `caller` asks for: a
    customer's own, or the one that the operator names. The number itself does too; anything else is left for whoever
    reads the parameters to refuse. Raises InvalidParameters where a customer asks for another's."""
    asked = parameters.get("account", "")
    if caller.account is not None:
        if asked not in ("", str(caller.account)):
            message = "account must be this key's own: leave it out."
            raise InvalidParameters([ParameterFault("account", Fault.INVALID_PARAMETER, message)])
        parameters["account"] = str(caller.account)
    elif asked and (account := await accounts.named(asked)) is not None:
        parameters["account"] = str(account)
